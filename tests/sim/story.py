"""A story: what happens, to whom, and what is asked meanwhile; the same for a seed on any machine."""

import random
from dataclasses import dataclass, replace

ROW_BYTES = 24  # of the model's activations
LATEST = -2  # whoever is the end user then
PROMPT = [5, 3, 8, 1, 9, 2, 7]


@dataclass(frozen=True)
class Fault:
    at_s: float
    kind: str  # kill, die (unseen by MPI), stop, stall, cut, slow, split
    node: int
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s: {self.kind} {self.node}" + (
            f" for {self.for_s:.1f} s" if self.for_s else ""
        )


@dataclass(frozen=True)
class Story:
    seed: int
    layers: int = 8
    workers: int = 4
    copies: int = 1
    tokens: int = 20
    end_user_layers: str = "first,last"
    faults: tuple[Fault, ...] = ()
    lost: float = 0.0  # share of messages
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 0.3  # how late, at the most
    room: float = 100.0
    journal_bytes: int = 10**6
    prefill_rows: int = 4
    ladder: tuple[str, ...] = ("copy", "skip")
    max_skipped: int = 10**6
    sees_deaths: bool = True  # MPI tells of a killed process
    layer_s: float = 0.004  # a row through a layer
    patched: bool = False
    streams: int = 0  # answers in flight at a time; 0: one, in turns as in a chat
    guessed: float = 0.0  # how many of the drafts are right; 0: none travel
    standby: int = -1  # the node that takes over from the end user; -1: none

    def __str__(self) -> str:
        faults = "; ".join(map(str, self.faults)) or "no fault"
        rest = {k: v for k, v in vars(self).items() if v != getattr(Story, k, None) and k != "faults"}
        return f"{faults} | {rest}"


KINDS = ("kill", "kill", "stop", "stop for", "stall", "cut", "slow")


def draw(seed: int) -> Story:
    """A story, the same for a seed on any machine."""
    dice = random.Random(seed)
    workers, tokens = dice.randint(1, 5), dice.choice((8, 16, 30))
    end_user_layers = dice.choice(("first,last", "first,last", "none", "first", "last"))
    own = 0 if end_user_layers == "none" else len(end_user_layers.split(","))
    layers = own + dice.randint(max(1, workers - 1), 2 * workers)
    layer_s = dice.choice((0.002, 0.01, 0.04))
    row_s = layers * layer_s + 0.002 * workers
    faults, at_s = [], dice.random() * dice.choice((len(PROMPT), tokens / 2)) * row_s
    near = dice.random() < 0.4  # close together: during each other's repair
    for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        kind = dice.choice(KINDS)
        at_s += dice.random() * (2 * row_s if near else 0.5 * tokens * row_s + 1.0)
        for_s = dice.choice((0.3, 0.9, 1.5, 3.0, 12.0)) if kind not in ("kill", "stop") else 0.0
        if kind == "stall" and dice.random() < 0.1:
            for_s = 45.0
        faults.append(Fault(at_s, kind.split()[0], dice.randint(1, workers), for_s))
    if workers > 2 and dice.random() < 0.1:  # one after the other, with time to restore what was lost
        order = dice.sample(range(1, workers + 1), dice.randint(2, workers - 1))
        faults = [Fault(4.5 * (place + dice.random() / 9), "kill", node) for place, node in enumerate(order)]
        return Story(seed, layers, workers, 1, 40, end_user_layers, tuple(faults), layer_s=0.04)
    rough = dice.random()
    return Story(
        seed, layers, workers, dice.choice((0, 1, 1, 2)), tokens, end_user_layers, tuple(faults),
        lost=dice.choice((0.01, 0.05)) if rough < 0.2 else 0.0,
        doubled=0.05 if 0.1 < rough < 0.4 else 0.0,
        late=0.1 if 0.3 < rough < 0.6 else 0.0,
        late_s=dice.choice((0.05, 0.3, 4.0)),
        room=dice.choice((100.0, 100.0, 3.0, 0.0)),
        journal_bytes=dice.choice((10**6, 10**6, 10**6, 10 * ROW_BYTES)),
        prefill_rows=dice.choice((2, 4, 128)),
        max_skipped=dice.choice((10**6, 10**6, layers // 3)),
        ladder=dice.choice((("copy", "skip"), ("copy", "skip"), ("copy", "skip"), ("copy",), ("skip",))),
        sees_deaths=dice.random() < 0.8,
        layer_s=layer_s,
    )  # fmt: skip


def more_of(story: Story) -> Story:
    """The same with patches in every second one, several answers in flight and drafts in most."""
    dice = random.Random(story.seed + 4)
    streams, guessed = dice.choice((0, 0, 1, 2, 3, 5)), dice.choice((0.0, 0.0, 0.5, 0.9, 1.0))
    return replace(story, patched=story.seed % 2 == 1, streams=streams, guessed=guessed)


def with_faults_alone(story: Story, standby: int, faults: tuple[Fault, ...]) -> Story:
    """The same with these faults, on a network that loses nothing, and with room and copies for all."""
    return replace(
        story, standby=standby, faults=faults, copies=1, lost=0.0, doubled=0.0, late=0.0, room=100.0,
        journal_bytes=10**6, sees_deaths=True, ladder=("copy", "skip"),
    )  # fmt: skip


def with_standby(story: Story) -> Story:
    """The same with a standby, and with what may happen to the end user, and to those after it."""
    dice = random.Random(story.seed + 6)
    if story.workers > 2 and story.seed % 10 == 0:  # with time to have another one stand by
        kills = dice.randint(2, story.workers - 1)
        at_s = [0.3 + 12.0 * (place + dice.random() / 9) for place in range(kills)]
        faults = tuple(Fault(each, "kill", LATEST) for each in at_s)
        longer = replace(story, tokens=40, layer_s=0.04)
        return with_faults_alone(longer, dice.randint(1, story.workers), faults)
    if story.workers > 2 and story.seed % 10 == 5:  # cut off, while all others are well
        length_s = story.tokens * story.layers * story.layer_s
        cut = Fault(dice.random() * length_s, "cut", 0, dice.choice((1.2, 1.5, 3.0, 12.0)))
        return with_faults_alone(story, dice.randint(1, story.workers), (cut,))
    last_s = max((fault.at_s for fault in story.faults), default=story.tokens * story.layers * story.layer_s)
    faults = list(story.faults)[: dice.choice((0, 1, 1, 2))]
    near = dice.random() < 0.5  # to a fault of a worker
    for _ in range(dice.choice((0, 1, 1, 1, 2))):
        at_s = dice.random() * (last_s + 0.5)
        if near and faults:
            at_s = faults[-1].at_s + dice.random() * 0.5
        kind = dice.choice(("kill", "kill", "kill", "stop", "stop for", "cut", "split"))
        for_s = dice.choice((0.3, 1.2, 3.0, 12.0)) if kind not in ("kill", "stop") else 0.0
        node = dice.randint(1, story.workers) if kind == "split" else dice.choice((0, 0, 0, LATEST))
        faults.append(Fault(at_s, kind.split()[0], node, for_s))
    faults.sort(key=lambda fault: fault.at_s)
    return replace(story, standby=dice.randint(1, story.workers), faults=tuple(faults))


@dataclass(frozen=True)
class Turn:
    asked: tuple[int, ...]
    tokens: int
    new_text: bool = False  # another text, or else this one goes on
    broken_off: bool = False  # more tokens were wanted at first
    pause_s: float = 0.0  # before it


def turns(story: Story) -> list[Turn]:
    """The answer in two parts, as in a chat; or several answers to questions of their own."""
    dice = random.Random(story.seed + 2)
    if story.streams:
        count = dice.randint(1, 2 * story.streams)
        lengths = [dice.randint(1, 1 + 2 * story.tokens // count) for _ in range(count)]
        return [
            Turn((*PROMPT[number % 6 :], number), length, new_text=True)
            for number, length in enumerate(lengths)
        ]
    first = dice.randint(1, story.tokens)
    turn = Turn(tuple(PROMPT), first, broken_off=dice.random() < 0.5)
    if first == story.tokens:
        return [turn]
    asked, pause_s = (11, 12, 13)[: dice.randint(1, 3)], dice.choice([0.0, 0.0, 0.3, 3.0])
    return [turn, Turn(asked, story.tokens - first, new_text=dice.random() < 0.4, pause_s=pause_s)]
