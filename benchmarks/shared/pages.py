"""Write tables into the documentation, each between two marks."""

from pathlib import Path

from multigrain.files import write_atomic

END = "<!-- end -->"


def put_into(page: Path, source: str, text: str) -> None:
    """Replace the text between the mark of `source` and the next end.

    Raises:
        ValueError: see `around`.
    """
    before, after = around(page, source)
    write_atomic(page, f"{before}\n\n{text.strip()}\n\n{after}".encode())


def around(page: Path, source: str) -> tuple[str, str]:
    """Return the page up to the mark of `source`, and from the next end on.

    Call it before hours of work, to check that both marks exist.

    Raises:
        ValueError: the page does not have the mark exactly once, or no end after it.
    """
    mark = f"<!-- {source}: begin -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(mark)
    inside, end, after = rest.partition(END)
    if not (found and end) or mark in after or ": begin -->" in inside:
        raise ValueError(f"{page}: wanted once: {mark}, and after it {END} before another begins")
    return before + mark, end + after
