"""A hook of mkdocs: README.md and CONTRIBUTING.md, which stand where GitHub looks for them, are pages of the
site too."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(?<=\]\()(?:\.\./|docs/)?([^)#:\s]+)(?=[)#])")


def seen_from_docs(text: str) -> str:
    """Links as they have to be in docs/, with the new names of the pages that come from outside."""
    return LINK.sub(lambda link: OUTSIDE.get(link[1], link[1]), text)


def on_files(files, config):
    for source, page in OUTSIDE.items():
        text = seen_from_docs((ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    return seen_from_docs(markdown)
