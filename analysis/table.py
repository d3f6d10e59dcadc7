"""Tables on the terminal."""

from rich.console import Console


def console(piped_width: int = 200) -> Console:
    """As wide as the terminal; into a pipe no row is broken."""
    made = Console(highlight=False, soft_wrap=True, markup=False)  # names are no markup
    if not made.is_terminal:
        made.width = piped_width
    return made
