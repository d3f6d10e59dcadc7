"""A story that breaks a rule, reduced to the fewest faults that still break it, and written as a test that a
person can read."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from .story import Fault, Story

CALM = {  # a field -> what it is where it plays no part, the most telling first
    "lost": 0.0, "late": 0.0, "doubled": 0.0, "streams": 0, "guessed": 0.0, "patched": False,
    "prefill_rows": 128,
    "journal_bytes": 10**6, "room": 100.0, "max_skipped": 10**6, "sees_deaths": True, "copies": 0,
}  # fmt: skip
HAPPENS = {
    "kill": "is killed", "stop": "is stopped", "stall": "lives and does not get on", "cut": "is cut off",
    "slow": "is 20 times slower",
}  # fmt: skip
Breaks = Callable[[Story], str]  # -> what is wrong with a story, '' if nothing


def rule_of(wrong: str) -> str:
    """'Wrong: rule 2': a smaller story has to break the same rule."""
    return ":".join(wrong.split(":")[:2])


def simpler(story: Story) -> Iterator[Story]:
    """The stories that have one thing less."""
    for place in range(len(story.faults)):
        yield replace(story, faults=story.faults[:place] + story.faults[place + 1 :])
    for name, calm in CALM.items():
        if getattr(story, name) != calm:
            yield replace(story, **{name: calm})
    for place, fault in enumerate(story.faults):
        rounded = replace(fault, at_s=round(fault.at_s, 1))
        if rounded != fault:
            yield replace(story, faults=(*story.faults[:place], rounded, *story.faults[place + 1 :]))


def shrink(story: Story, breaks: Breaks) -> Story:
    """The first simpler story that breaks the same rule, and so on, until there is none."""
    rule = rule_of(breaks(story))
    while smaller := next((each for each in simpler(story) if rule_of(breaks(each)) == rule), None):
        story = smaller
    return story


def line(fault: Fault) -> str:
    for_s = f", {fault.for_s!r}" if fault.for_s else ""
    lasts = f" for {fault.for_s:.1f} s" if fault.for_s else ""
    happens = f"after {fault.at_s:.2f} s node {fault.node} {HAPPENS[fault.kind]}{lasts}"
    return f'        sim.Fault({fault.at_s!r}, "{fault.kind}", {fault.node}{for_s}),  # {happens}'


def as_test(story: Story, wrong: str) -> str:
    """A test to be pasted into test_sim.py."""
    given = {field.name: getattr(story, field.name) for field in fields(story) if field.name != "faults"}
    arguments = [f"{name}={value!r}" for name, value in given.items() if value != getattr(Story, name, None)]
    return "\n".join(
        [
            f"def test_the_story_of_seed_{story.seed}():",
            f"    # {wrong}",
            "    faults = (",
            *map(line, story.faults),
            "    )",
            f"    sim.check(sim.play(sim.Story({', '.join(arguments)}, faults=faults)))",
        ]
    )
