"""Lists all that is in a record, in one place. docs/records.md is made from it (docs/make/generated.py)."""

from typing import NamedTuple

SCHEMA = 7
LIBVER = ("v110", "v110")  # of HDF5: the first that can be read while it grows; Debian's tools read it

EVENTS = {
    "asked": "a question; `step` is its first token's. Text: {sequence, prompt, cached, "
    "ids}: how many of its `ids` were in caches",
    "answered": "its end; `step` comes after its last. Text: {sequence, ended, text}",
    "refused": "a line of --prompts that cannot be asked. Text: {line, error}",
    "LOST": "a sign, as all in capitals: SILENT, STALLED, STUCK, LATE, GIVEN_UP, GARBLED, BACK, MISSING; "
    "see protocol/node_state.py",
    "route": "the route that the step takes from here on. Text: [[node, first layer, layers], ...]; "
    "a fourth number, 1: their patch",
    "rerouted": "who runs a block now, in words; `told` in schemas before 7",
    "copy": "the node has loaded a copy of the block",
    "shrunk": "the communicator has been shrunk. Text: [node, ...]",
    "words": "a node's last words: its traceback, or why it left",
    "orphaned": "mpirun died, and the ranks go on without it; noticed with the next token, or at the end",
    "takeover": "the node goes on as the end user, in place of one that is gone: this is its own record",
    "resumed": "another run goes on with the record. Text: its attributes",
    "done": "all is answered: the run's own mark, whatever mpirun's status. Text: {sentence, peak_bytes}",
    "ended": "the run ended too early. Text: {sentence, peak_bytes}",
}


# Names of schemas before 7, of events and of what their JSON and a run's attributes hold; readers see today's
# only.
RENAMED = {"told": "rerouted", "kept": "cached", "prompt_said": "prompt_option"}


class Field(NamedTuple):
    name: str
    type: str  # numpy's
    unit: str
    meaning: str


ABOUT = {
    "tokens": "one row a token, in the order in which they were shown",
    "hops": "one row a token (or piece of the prompt) and stage, in the order of the token's way; "
    "a token's rows stand before its own",
    "events": "one row for every question, sign of a fault, route taken, copy loaded, "
    "and every change of the route, in words",
    "clocks": "one row a round trip to a node: at the start five a node, then one every ten seconds; "
    "a start's first row is the end user's own",
    "text": "UTF-8, to which events point",
}

FIELDS = {
    "tokens": (
        Field("step", "u4", "", "counts what left the end user, from 0; a draft that was right "
              "has the step of the token before it"),
        Field("sequence", "u4", "",
              "which conversation, from 0; several may be in flight; the draws depend on it"),
        Field("position", "u4", "", "in the sequence, prompt included, from 0"),
        Field("token", "u4", "", "its id"),
        Field("at_s", "f8", "s", "when it was chosen, since the run's beginning"),
        Field("total_s", "f8", "s",
              "from its answer's token before it to this one; the first: from its question"),
        Field("head_s", "f8", "s", "of that, the end user's embedding, output layer and choice"),
        Field("layers", "u2", "",
              "run on the position before: fewer than the model's where some were skipped"),
        Field("hops", "u4", "",
              "how many rows of `hops` are its own; 0: it came as a draft with the token before it"),
    ),
    "hops": (
        Field("step", "u4", "", "the token's"),
        Field("start", "u4", "", "position of the first row run"),
        Field("rows", "u4", "", "positions run: 1 and its drafts, a piece of the prompt, "
              "or what a copy or a returned node lacked"),
        Field("node", "u2", "", "rank at launch; 0 is the end user"),
        Field("first_layer", "u2", "", "of the block, from 0"),
        Field("layers", "u2", "", "of the block"),
        Field("at_s", "f8", "s", "when the work began, by the node's own monotonic clock; see clocks"),
        Field("wait_s", "f4", "s", "from the end of the node's last work to the message's arrival"),
        Field("compute_s", "f4", "s", "inside the stage"),
        Field("previous_send_s", "f4", "s", "sending the node's previous message (this one carried the row)"),
        Field("received_bytes", "u4", "bytes", "of the message; 0: the node handed it to itself"),
        Field("memory_kib", "u4", "KiB", "resident, of the node's process, at most a second ago"),
        Field("temperature_c", "i2", "°C", "of its CPU; -300: the machine does not tell"),
        Field("clock_mhz", "u2", "MHz", "of its CPU; 0: the machine does not tell"),
        Field("patch", "u1", "", "1: of the block's layers none was run, their patch stood in for them"),
    ),
    "events": (
        Field("at_s", "f8", "s", "since the run's beginning"),
        Field("step", "u4", "", "the token that was under way"),
        Field("node", "i4", "", "-1: none"),
        Field("event", "S8", "", "see below"),
        Field("first_layer", "u2", "", "of the block it is about"),
        Field("layers", "u2", "", "of that block; 0: none"),
        Field("text_at", "u8", "bytes", "where its text begins in `text`"),
        Field("text_bytes", "u4", "bytes", "of its text"),
    ),
    "clocks": (
        Field("at_s", "f8", "s", "when the answer came, since the run's beginning"),
        Field("node", "u2", "", ""),
        Field("offset_s", "f8", "s", "the node's clock minus the time since the run's beginning"),
        Field("uncertainty_s", "f8", "s", "half of the round trip: the offset is nowhere further off"),
    ),
    "text": (),
}  # fmt: skip

ATTRIBUTES = {
    "schema": "of this file",
    "prompt_option": "what `--prompt` said; `prompt` has what came on standard input behind it; "
    "`prompt_said` in schemas before 7",
    "prompt, model, fingerprint, dtype": "what is asked of which files",
    "settings": "JSON: every option's value",
    "versions": "JSON: of Python, jarvis_mpi and what it rests on",
    "hosts": "JSON: node -> host name",
    "placement, copies, policy, room": "JSON: the blocks at the start, and what faults may cost",
    "patches, patchers": "JSON: holes for which there is a patch (--patches), and the nodes that have it",
    "links": "JSON: [node, node, round trip in s, kbit/s] of each pair that doctor measured (--links); "
    "null: it could not be reached",
    "depth": "layers of the model",
    "writer": "JSON: the process that writes the file; see common/process_identity.py",
    "start, loaded_s": "JSON: seconds of each part of the start; node -> seconds until its block was loaded",
    "started, started_unix_s, clock_at_begin_s": "when it began, by the wall clock and the end user's own",
}  # fmt: skip


def markdown() -> str:
    lines = [
        f"# Every field (schema {SCHEMA})",
        "",
        "What `python -m jarvis_mpi.record.schema` prints. One HDF5 file a run; "
        "`jarvis_mpi/record/reader.py` reads it, also while it grows",
        "and after `kill -9`. Node k's clock minus `offset_s` is the time since the run's beginning.",
    ]
    for name, fields in FIELDS.items():
        lines += ["", f"## {name}", "", ABOUT[name][0].upper() + ABOUT[name][1:] + "."]
        if fields:
            lines += ["", "| field | type | unit | meaning |", "|---|---|---|---|"]
            lines += [
                f"| `{field.name}` | {field.type} | {field.unit} | {field.meaning} |" for field in fields
            ]
    lines += ["", "## What an event is", "", "| event | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in EVENTS.items()]
    lines += ["", "## Attributes", "", "| attribute | meaning |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in ATTRIBUTES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    from ..common.output import run

    run(lambda: print(markdown()))
