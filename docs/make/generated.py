"""What pages take from the code: python docs/make/generated.py [--check]

docs/options.md: every option of a run, from the parser. docs/records.md, behind its marker: every field of a
record, from the schema. `--check` writes nothing, names what is not current, and has the status 1 then.
"""

import argparse
import re
import sys
from pathlib import Path

from jarvis_mpi.app.cli import COMMANDS
from jarvis_mpi.common import options
from jarvis_mpi.record import schema

DOCS = Path(__file__).parent.parent
MARKER = "<!-- From here on made by: python docs/make/generated.py -->\n"
OPTIONS = """# All options

What `python -m jarvis_mpi --help` lists. This page is made from the parser by
`python docs/make/generated.py`, and a test holds that it is current. The other commands ({commands}) have a
`--help` each.

{table}

## Variables of the environment

| variable | what it does |
|---|---|
{variables}
"""

VARIABLES = {
    "JARVIS_CACHE": "the folder for models, quantised weights and machine code; by default "
    "`~/.cache/jarvis_mpi`",
    "JARVIS_DEBUG": "what a run logs on standard error: `net` (each message), `protocol` (each sign, route, "
    "copy, change), or `protocol,net`",
    "JARVIS_SSH": "the command in the place of `ssh`, such as `ssh -p 2222`",
    "JARVIS_WITHOUT": "instructions of the processor that are not to be used, such as `avx512`; "
    "the results are the same bit for bit",
}


def pages() -> dict[Path, str]:
    """Each page that is made, and what has to stand in it."""
    records = DOCS / "records.md"
    by_hand, found, _ = records.read_text().partition(MARKER)
    if not found:
        sys.exit(f"{records} has no line: {MARKER}")
    fields = re.sub("^#", "##", schema.markdown(), flags=re.MULTILINE)
    return {
        DOCS / "options.md": OPTIONS.format(
            table=options.markdown(),
            commands=", ".join(f"`{word}`" for word in COMMANDS),
            variables="\n".join(f"| `{name}` | {what} |" for name, what in VARIABLES.items()),
        ),
        records: f"{by_hand}{MARKER}\n{fields}\n",
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    old = {page: text for page, text in pages().items() if not page.exists() or page.read_text() != text}
    for page, text in old.items():
        if check:
            print(f"{page} is not current: python docs/make/generated.py")
        else:
            page.write_text(text)
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
