"""Render token weights for a terminal, as JSON, and as an HTML page."""

import html
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from multigrain.model.token_weights import Explanation, TokenWeight

Form = Literal["terminal", "json", "html"]
SHOWN = 12
"""Number of tokens in the table for a terminal."""
BAR = 24
"""Number of characters in the longest bar."""
COLOUR = (255, 140, 0)
OTHER = "These are the weights that anchor pooling would give; the model itself uses another pooling."


def render(explanation: Explanation, form: Form) -> str:
    """Return the explanation in the given form; for a terminal, with colours if stdout is one."""
    if form == "json":
        return json.dumps(_fields(explanation), ensure_ascii=False, indent=2)
    if form == "html":
        return _page(explanation)
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(_terminal(explanation))
    return captured.get().rstrip("\n")


def _fields(explanation: Explanation) -> dict[str, object]:
    tokens = [asdict(token) | {"weight": round(token.weight, 6)} for token in explanation.tokens]
    return {
        "given": explanation.given,
        "unread": explanation.unread,
        "is_own_pooling": explanation.is_own,
        "tokens": tokens,
    }


def _terminal(explanation: Explanation) -> RenderableType:
    text = Text()
    for piece in _pieces(explanation):
        red, green, blue = [int(value * piece.strength) for value in COLOUR]
        ink = "black" if piece.strength > 0.5 else "white"
        slant = "" if piece.token.kind == "text" else "italic "
        text.append(piece.before).append(piece.shown, f"{slant}{ink} on rgb({red},{green},{blue})")
    parts: list[RenderableType] = [text, Text(), _table(explanation)]
    if not explanation.is_own:
        parts.append(Text(OTHER))
    if explanation.unread:
        parts.append(Text(f"not read, because the text exceeds the model's length: {_short(explanation.unread)}"))
    return Group(*parts)


def _table(explanation: Explanation) -> Table:
    table = Table("token", "share", "times the even share", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for piece in _heaviest(explanation)[:SHOWN]:
        weight = piece.token.weight
        bar = "█" * round(BAR * piece.strength)
        table.add_row(Text(piece.named), f"{weight:.1%}", Text(f"{weight * len(explanation.tokens):4.1f} {bar}"))
    return table


class _Piece(NamedTuple):
    """A token in its text.

    Attributes:
        before: characters before the token that belong to no token.
        shown: the characters of the token in the text.
        token: the token, with its weight.
        strength: its weight relative to the largest weight.
    """

    before: str
    shown: str
    token: TokenWeight
    strength: float

    @property
    def named(self) -> str:
        """The name of the token in a table, which also works for blank characters."""
        return self.shown if self.shown.strip() else self.token.token


def _heaviest(explanation: Explanation) -> list[_Piece]:
    """Return the tokens in falling order of their weight."""
    return sorted(_pieces(explanation), key=lambda piece: -piece.strength)


def _pieces(explanation: Explanation) -> Iterator[_Piece]:
    """Cut the text into its tokens.

    A character may consist of several tokens (an emoji often does); it is shown with the first of them.
    """
    greatest = max(token.weight for token in explanation.tokens) or 1.0
    seen = 0
    for token in explanation.tokens:
        shown = token.token if token.kind == "special" else explanation.given[max(seen, token.start) : token.end]
        before = "" if token.kind == "special" else explanation.given[seen : token.start]
        seen = max(seen, token.end)
        yield _Piece(before, shown, token, strength=token.weight / greatest)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Anchor tokens</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.9 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.2rem; }}
#text span {{ border-radius: .2rem; padding: .1rem 0; white-space: pre-wrap; }}
.special, .prompt {{ font-style: italic; opacity: .75; }}
.unread {{ opacity: .4; }}
table {{ border-collapse: collapse; font-size: .85rem; line-height: 1.4; }}
td, th {{ text-align: left; padding: .1rem .8rem .1rem 0; white-space: pre; }}
td i {{ display: inline-block; height: .7rem; background: rgb({colour}); }}
</style>
<h1>How much each token counts in the embedding</h1>
<p>{note} The stronger the colour, the larger the share. All shares sum to 1. Text in italics is added by the model.</p>
<p id="text">{text}</p>
<table>
<tr><th>token<th>share<th>times the even share
{rows}
</table>
</html>
"""


def _page(explanation: Explanation) -> str:
    colour = ",".join(map(str, COLOUR))
    text = "".join(_span(colour, piece) for piece in _pieces(explanation))
    if explanation.unread:
        text += f' <span class="unread" title="not read: too long">{html.escape(explanation.unread)}</span>'
    note = "" if explanation.is_own else OTHER
    rows: list[str] = []
    for piece in _heaviest(explanation):
        weight = piece.token.weight
        figures = f"<td>{weight:.2%}<td>{weight * len(explanation.tokens):.1f} "
        bar = f'<i style="width:{12 * piece.strength:.2f}rem"></i>'
        rows.append(f"<tr><td>{html.escape(piece.named)}{figures}{bar}")
    return PAGE.format(colour=colour, note=note, text=text, rows="\n".join(rows))


def _span(colour: str, piece: _Piece) -> str:
    token = piece.token
    style = f"background:rgba({colour},{piece.strength:.3f})"
    span = f'<span class="{token.kind}" title="{token.weight:.2%}" style="{style}">{html.escape(piece.shown)}</span>'
    return html.escape(piece.before) + span
