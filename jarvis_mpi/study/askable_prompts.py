"""Read the prompts of a file that can be asked."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import Unservable
from ..common.prompt_file import read

if TYPE_CHECKING:
    from ..model.tokenizer import Text
    from .tool import Refuse


def askable_in(
    path: Path,
    text: "Text",
    context: int,
    left_out: "Refuse",
    check: Callable[[str], None] = lambda prompt: None,
) -> tuple[list[str], list[list[int]]]:
    """Return the prompts of a file that a run could ask, and their ids.
    Raises Unservable if it cannot be read.

    `left_out` is called with the others; `check` raises Unservable for prompts that are refused for another
    reason.
    """
    from ..model.askable import askable

    found, prompt_ids = [], []
    for line in read(path):
        try:
            if line.wrong:
                raise Unservable(line.wrong)
            check(line.prompt)
            prompt_ids.append(askable(text, (), line.prompt, context))
        except Unservable as error:
            place = "" if line.wrong else f"line {line.number}: "
            left_out(f"--prompts {path}", f"{place}{error}")
            continue
        found.append(line.prompt)
    return found, prompt_ids
