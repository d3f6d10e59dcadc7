"""Every option of a run: its default, unit and reason.
The command line is made from this, and the record stores all of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

from .errors import Unservable

DEFAULT_MODEL = "smollm2-135m-instruct"
DAY_S = 86400.0
LONGEST_SHOWN = 60  # characters of a value, in a sentence
LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0  # of what is repeated
DTYPES = ("auto", "float32", "bfloat16")


def option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


OR_ZERO = ("repetition_penalty",)  # options whose 0 has a meaning of its own
# The least and the largest value of a number; None: no limit.
LIMITS: dict[str, tuple[float, float | None]] = {
    "threads": (0, None),
    "prefill_rows": (1, None),
    "streams": (0, None),
    "pace_s": (0.0, DAY_S),
    "draft_tokens": (1, 32),
    "max_new_tokens": (1, None),
    "temperature": (0.0, None),
    "top_k": (0, None),
    "top_p": (0.0, 1.0),
    "repetition_penalty": (LEAST_PENALTY, MOST_PENALTY),
    "start_timeout_s": (0.001, DAY_S),
    "copies": (0, None),
    "copied_blocks": (0, None),
    "standby": (0, 1),
    "max_skipped": (-1, None),
    "beat_s": (0.01, DAY_S),
    "silence_s": (0.01, DAY_S),
    "progress_s": (0.01, DAY_S),
    "stall_timeout_s": (0.01, DAY_S),
    "slowest_link_kbit_s": (0.001, None),
    "give_up_s": (0.01, DAY_S),
    "journal_mb": (0.01, 1e6),
    "idle_timeout_s": (0.001, DAY_S),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Settings:
    """The options of a run. Every rank reads the same command line."""

    prompt: str | None = option(
        None,
        "one question, with what standard input brings behind it; -: only that, which no list of processes "
        "shows; a model without a chat template completes it instead. Without: a chat",
        type=str,
    )
    prompts: str = option(
        "", "a file of prompts, one a line or JSONL (prompt); the answers are JSONL, in order"
    )
    json: bool = option(False, "lines of JSON on standard output, for programs, in place of text and table")
    model: str = option(
        DEFAULT_MODEL,
        "a bundled name (smollm2-135m-instruct, gemma-3-270m), a folder of safetensors, a GGUF file,"
        " or a hub id (from the local hub cache, or fetched where there is a network)",
    )
    dtype: str = option(
        "auto",
        "of weights and activations; auto: what the files hold (float32 for float16)",
        choices=DTYPES,
    )
    weights: str = option(
        "auto",
        "auto: in --dtype; int8: 0.52 of bfloat16's bytes for hardly any loss; int4: 0.31, "
        "for some (docs/speed.md)",
        choices=("auto", "int8", "int4"),
    )

    split: str = option("even", "layers per worker: even, memory (by each host's free memory) or 2,3,3,...")
    end_user_layers: str = option(
        "first,last", "the critical layers, kept by the end user: first,last  first  last  none"
    )
    copies: int = option(1, "further nodes that hold each block; a copy costs no memory until it is used")
    standby: int = option(
        1,
        "1: a worker goes on as the end user, with the same text, if that one or its machine dies; "
        "0: the run ends with its end user",
    )
    skip_layers: str = option(
        "", "layers left out from the start, counted from 1 as in the JARVIS poster: 5,6,10"
    )
    copied_blocks: int = option(
        0,
        "copies of this number of blocks only, those whose loss costs most (by --study or --patches); "
        "0: of all",
    )
    on_fault: str = option(
        "copy,patch,skip",
        "what to do without a node, the best first: its layers from a copy (exact), "
        "a patch in their place (--patches), or skipped (worse)",
        choices=("copy,patch,skip", "copy,skip", "copy,patch", "copy", "patch,skip", "patch", "skip", "stop"),
    )
    patches: str = option(
        "",
        "small stand-ins for lost blocks, made by fit-patches; on each host, as the model is",
        metavar="FILE",
    )
    study: str = option(
        "",
        "a skip study's file: tells what a lost block costs, for --never-skip auto, "
        "--copied-blocks and what is said",
        metavar="STUDY.h5",
    )
    max_skipped: int = option(-1, "layers that may be skipped at a time; -1: a third of the model's")
    never_skip: str = option(
        "first,last",
        "layers that may not be: first,last, or numbers such as 0,1,17; none; "
        "auto: those that cost more than a nat a token (--study)",
    )
    threads: int = option(
        0, "compute threads per node, no more than its host's cores; 0: those shared by its ranks"
    )
    prefill_rows: int = option(
        256, "positions of a prompt sent at a time, at the most: while one node works, the next does too"
    )

    streams: int = option(
        0,
        "answers to --prompts that are in flight at a time, each with its caches; "
        "0: as many as there are workers",
    )
    draft: str = option(
        "",
        "guess the tokens to come and check them in one way round: text (what followed the same words "
        "before), or a small model with the same tokenizer, at the end user (fit-draft makes one)",
        metavar="text|MODEL",
    )
    draft_tokens: int = option(
        8, "guesses that travel behind a token, at the most; fewer where they are seldom right"
    )

    max_new_tokens: int = option(200, "the answer ends here at the latest")
    ignore_eos: bool = option(False, "go on past the model's end-of-sequence token (for measurements)")
    temperature: float = option(0.0, "0 takes the likeliest token; higher draws more freely")
    top_k: int = option(0, "draw among the k likeliest tokens; 0: among all")
    top_p: float = option(1.0, "draw among the likeliest tokens that together have this probability")
    repetition_penalty: float = option(
        0.0,
        "above 1: what stands in the text already becomes less likely; 1: none; "
        "0: as the model's own files say, else none",
    )
    stop: tuple[str, ...] = option(
        (), "an answer ends before this text; may be said several times", metavar="TEXT"
    )
    seed: int = option(0, "of the draws: the same seed gives the same text on any number of nodes")

    pace_s: float = option(
        0.0,
        "rehearse slow workers: each layer takes so long for a token, and a prompt in proportion; "
        "0: as it is",
    )
    fault: str = option(
        "",
        'faults on order: "kill 3 @ 10; stop 5 @ 20 for 4s; stall 1 @ 5 for 9s; slow 2 x3; mute 4 @ 7; '
        'raise 6 @ 12"',
    )
    log: str = option(
        "", "the record, an HDF5 file; by default a new one under runs/, or in ~/.local/state/jarvis_mpi"
    )
    links: str = option(
        "",
        "what doctor --log has written: its figures of the links are kept in the record",
        metavar="DOCTOR.h5",
    )
    resume: str = option(
        "",
        "a record: continue its run, which was killed, under its own options but for those given again",
        metavar="RUN.h5",
    )
    secure: str = option(
        "auto",
        "encrypt and authenticate what travels between ranks; auto: on where they are on several hosts, off "
        "where all are on one machine",
        choices=("auto", "on", "off"),
    )
    start_timeout_s: float = option(600.0, "longest wait for a node to load its block (SD cards are slow)")
    beat_s: float = option(0.25, "a worker shows so often that it lives, where no work of its own does")
    silence_s: float = option(1.0, "without a sign of life for so long, a node is bypassed")
    progress_s: float = option(
        1.0, "more than three times what a node measured at its start: then a copy takes its work over"
    )
    slowest_link_kbit_s: float = option(
        10000.0, "half of its rate: while a prompt is on its way for so long, beats behind it may be late too"
    )
    stall_timeout_s: float = option(30.0, "a node that lives but does not get on is skipped after so long")
    give_up_s: float = option(60.0, "a silent node is not used again after so long")
    journal_mb: float = option(
        64.0, "of what a node has sent, kept for repairs, a block; the oldest goes first"
    )
    idle_timeout_s: float = option(3600.0, "a worker that has nothing to do for so long leaves")

    def checked(self, words_alone: bool = False) -> "Settings":
        """Return these settings if each value can be used; otherwise raises Unservable.
        `words_alone`: a record has others beside them."""
        refuse_beyond(self, LIMITS)
        if self.silence_s < 3 * self.beat_s and not words_alone:
            raise Unservable(
                f"--silence-s is {self.silence_s:g}, but must be at least 3 times --beat-s ({self.beat_s:g}):"
                " a beat may be late"
            )
        if self.top_p == 0:
            raise Unservable("--top-p is 0, which leaves no token to draw: use a value up to 1")
        if self.log and self.resume:
            raise Unservable(
                f"--log {self.log} and --resume {self.resume} are both said: a resumed run goes on in its "
                "own record"
            )
        if self.prompt is not None and self.prompts:
            raise Unservable(f"--prompt and --prompts {self.prompts} are both said: say one of them")
        if self.prompt is not None and not self.prompt.strip():
            raise Unservable(
                'there is no prompt: say --prompt "Why is the sky blue?", or no --prompt for a chat'
            )
        for name, words in asdict(self).items():
            if any(not is_utf8(word) for word in (words if isinstance(words, tuple) else [str(words)])):
                raise Unservable(f"{flag(name)} is not UTF-8 text")
        return self

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Settings":
        """Make settings from as_dict's result, also through JSON, and of an older version: options that it
        lacks get their defaults."""
        names = {each.name for each in fields(cls)}
        known = {name: value for name, value in options.items() if name in names}
        return cls(**{**known, "stop": tuple(known.get("stop", ()))})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def refuse_beyond(options: Any, limits: Mapping[str, tuple[float, float | None]]) -> None:
    """Raises Unservable where a number is not within its limits; None: it was not given."""
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is None or (value == 0 and name in OR_ZERO):
            continue
        if not low <= value < math.inf or (high is not None and value > high):
            bounds = f"between {low} and {high}" if high is not None else f"at least {low}"
            bounds += ", and finite" if value == math.inf and high is None else ""
            raise Unservable(f"{flag(name)} is {value}, but must be {bounds}")


def is_utf8(words: str) -> bool:
    """Return whether words can be encoded: bytes of a command line that are no UTF-8 arrive as characters
    that cannot."""
    try:
        return bool(words.encode()) or True
    except UnicodeEncodeError:
        return False


def short(value: Any) -> str:
    """Return a value as Python writes it, or the beginning of that."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# No order, no layer; an empty prompt has its own error.
MAY_BE_EMPTY = ("--prompt", "--fault", "--skip-layers")


def refuse_empty(words: Sequence[str]) -> None:
    """Raises Unservable where an option has an empty value, such as a shell's variable that is not set."""
    for option, value in pairwise([*words, "-"]):
        name, equals, rest = option.partition("=")
        if name.startswith("--") and (value if not equals else rest) == "" and name not in MAY_BE_EMPTY:
            raise Unservable(f"{name} is empty: give it a value, or leave it away")
