"""Tables that stand in the documentation between two marks."""

from pathlib import Path

from multigrain.jsonl import write_atomic

END = "<!-- end -->"


def begin(source: str) -> str:
    """The mark before what `source` puts into a page."""
    return f"<!-- {source}: begin -->"


def put_into(page: Path, source: str, text: str) -> None:
    """Replace what stands between the mark of `source` and the next end.

    Raises:
        ValueError: the page does not have the mark exactly once, or no end after it.
    """
    old = page.read_text(encoding="utf-8")
    before, mark, rest = old.partition(begin(source))
    _, end, after = rest.partition(END)
    if not (mark and end) or mark in after:
        raise ValueError(f"{page}: wanted once: {begin(source)}, and after it {END}")
    write_atomic(page, f"{before}{mark}\n\n{text}\n\n{end}{after}".encode())
