"""Draws a run and its faults from a seed and a number, so that each can be made again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

PROMPT = "Tell me, in order, what happens to a raindrop from the cloud to the sea. " * 6
QUESTIONS = ("What is rain?", "Why is the sky blue?", "And snow?")
TOKENS = {"prompt": 96, "prompts": 32, "chat": 48}  # of an answer
START = ("exec", "MPI is loaded", "importing", "loading")
DECODING = ("ready", "prefill", "token", "token")
END = ("last token", "farewell")
LONGEST_S = {  # after its moment
    "exec": 1.5, "MPI is loaded": 1.5, "importing": 4.0, "loading": 1.5, "ready": 0.2, "prefill": 0.1,
    "last token": 0.1, "farewell": 0.3,
}  # fmt: skip
KINDS = {"kill": 8, "stop": 6, "stop for good": 3, "port": 2}
TARGETS = {"worker": 10, "end user": 4, "standby": 3, "launcher": 3, "successor": 2}


@dataclass(frozen=True)
class Order:
    """A fault that is to come. `node`: of a worker; `token`: for the moment of that name."""

    kind: str
    target: str
    node: int
    moment: str
    delay_s: float
    lasts_s: float
    token: int = 0

    def __str__(self) -> str:
        target = f"worker {self.node}" if self.target == "worker" else self.target
        lasts = f" for {self.lasts_s:.1f} s" if self.kind == "stop" else ""
        moment = f"token {self.token}" if self.moment == "token" else self.moment
        return f"{self.kind} {target}{lasts} @ {moment} + {self.delay_s:.2f} s"


@dataclass(frozen=True)
class Drawn:
    """A run that is to come."""

    number: int
    ranks: int
    standby: bool
    copies: int
    way: str  # prompt, prompts, chat
    tokens: int
    drawn: bool  # at a temperature
    draft: bool
    pace: bool
    orders: tuple[Order, ...] = ()

    @property
    def text(self) -> tuple[str, int, bool]:
        """What decides the text."""
        return self.way, self.tokens, self.drawn

    def words(self) -> list[str]:
        """Return the program's options, but for the question's."""
        words = ["--dtype", "float32", "--max-new-tokens", str(self.tokens), "--ignore-eos"]
        words += ["--copies", str(self.copies), "--standby", str(int(self.standby))]
        words += ["--temperature", "0.8", "--seed", "7"] if self.drawn else []
        words += ["--draft", "text"] if self.draft else []
        words += ["--pace-s", "0.001"] if self.pace else []
        return words + (["--streams", "2"] if self.way == "prompts" else [])

    def __str__(self) -> str:
        more = f"{', drawn' * self.drawn}{', draft' * self.draft}{', slow' * self.pace}"
        return (
            f"{self.ranks} ranks, {self.way}, {self.tokens} tokens, copies {self.copies}, "
            f"standby {int(self.standby)}{more}"
        )


def draw(seed: int, number: int) -> Drawn:
    """Draw a run. The same seed and number always give the same one."""
    dice = random.Random(f"{seed}:{number}")
    ranks = dice.choice((3, 4, 4, 4, 4, 5, 5, 6, 7, 8))
    way = dice.choice(tuple(TOKENS))
    case = Drawn(
        number, ranks, dice.random() < 2 / 3, dice.choice((1, 1, 2)), way, TOKENS[way],
        dice.random() < 0.25, dice.random() < 0.2, dice.random() < 0.5,
    )  # fmt: skip
    begins_early = dice.random() < 0.15  # else the first fault comes once the run is ready
    count = dice.choices((1, 2, 3, 4, 5), (1, 2, 4, 6, 7))[0]
    orders: list[Order] = []
    for place in range(count):
        orders.append(order(case, dice, begins_early and not place, orders))
    return Drawn(**{**vars(case), "orders": tuple(orders)})


def order(case: Drawn, dice: random.Random, in_start: bool, before: Sequence[Order]) -> Order:
    """Draw one fault, which comes after or beside those `before`."""
    kind = dice.choices(tuple(KINDS), tuple(KINDS.values()))[0]
    target = dice.choices(tuple(TARGETS), tuple(TARGETS.values()))[0]
    events = events_after(before)
    group = START if in_start else dice.choices((DECODING, events or DECODING, END), (4, 4, 2))[0]
    moment = dice.choice(group)
    if target in ("standby", "successor") and (not case.standby or in_start):
        target = "worker"
    if target == "successor":
        target, moment = ("successor", "takeover") if "takeover" in events else ("end user", moment)
    # Nobody promises that a run outlives an mpirun that is stopped, or that a stopped end user is replaced.
    if kind == "stop for good" and (target == "launcher" or (target == "end user" and not case.standby)):
        kind = "stop"
    if kind == "port" and target == "launcher":
        kind = "kill"
    node = dice.randint(1, case.ranks - 1)
    lasts = dice.choice((0.2, 1.0, 2.0, 4.0))
    return Order(
        kind, target, node, moment, dice.random() * LONGEST_S.get(moment, 0.3), lasts,
        dice.randint(1, case.tokens - 1),
    )  # fmt: skip


def events_after(orders: Sequence[Order]) -> tuple[str, ...]:
    """Return the events that may come of these faults."""
    hits = [each for each in orders if each.kind != "port" and (each.kind != "stop" or each.lasts_s > 0.7)]
    found = ["sign", "change", "route"] if any(each.target != "launcher" for each in hits) else []
    found += (
        ["copy", "shrunk"] if any((each.kind, each.target) == ("kill", "worker") for each in hits) else []
    )
    found += ["takeover"] * any(each.target == "end user" for each in hits)
    return (*found, *["orphaned"] * any((each.kind, each.target) == ("kill", "launcher") for each in hits))
