"""Tables that stand in the documentation between two marks."""

from pathlib import Path

from multigrain.jsonl import write_atomic

END = "<!-- end -->"


def put_into(page: Path, source: str, text: str) -> None:
    """Replace what stands between the mark of `source` and the next end.

    Raises:
        ValueError: the page does not have the mark exactly once, or no end after it.
    """
    mark = f"<!-- {source}: begin -->"
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(mark)
    _, end, after = rest.partition(END)
    if not (found and end) or mark in after:
        raise ValueError(f"{page}: wanted once: {mark}, and after it {END}")
    write_atomic(page, f"{before}{mark}\n\n{text.strip()}\n\n{end}{after}".encode())
