"""Token weights for a terminal, for machines, and as a page."""

import html
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from multigrain.model.token_weights import Explanation, TokenWeight

Form = Literal["terminal", "json", "html"]
SHOWN = 12
"""Tokens in the table of a terminal."""
BAR = 24
"""Characters of the longest bar."""
COLOUR = (255, 140, 0)
OTHER = "So anchor pooling would weigh the tokens; the model itself pools otherwise."


def render(explanation: Explanation, form: Form) -> str:
    """The explanation in one of its forms; that for a terminal has colours if stdout is one."""
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
    for before, shown, token, strength in _pieces(explanation):
        red, green, blue = (int(value * strength) for value in COLOUR)
        ink = "black" if strength > 0.5 else "white"
        text.append(before).append(shown, f"{'italic ' * (token.kind != 'text')}{ink} on rgb({red},{green},{blue})")
    parts: list[RenderableType] = [text, Text(), _table(explanation)]
    if not explanation.is_own:
        parts.append(Text(OTHER))
    if explanation.unread:
        parts.append(Text(f"not read, because the model's length was reached: {_short(explanation.unread)}"))
    return Group(*parts)


def _table(explanation: Explanation) -> Table:
    table = Table("token", "share", "times the even share", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for shown, token, strength in _heaviest(explanation)[:SHOWN]:
        bar = "█" * round(BAR * strength)
        table.add_row(Text(shown), f"{token.weight:.1%}", Text(f"{token.weight * len(explanation.tokens):4.1f} {bar}"))
    return table


def _heaviest(explanation: Explanation) -> list[tuple[str, TokenWeight, float]]:
    """The tokens in falling order of their weight, with how they are shown and their share of the greatest weight."""
    pieces = [
        (shown if shown.strip() else token.token, token, strength) for _, shown, token, strength in _pieces(explanation)
    ]
    return sorted(pieces, key=lambda piece: -piece[-1])


def _pieces(explanation: Explanation) -> Iterator[tuple[str, str, TokenWeight, float]]:
    """What stands before each token and belongs to none, how it is shown, it, and its share of the greatest weight.

    A character may be several tokens (an emoji often is): it is shown with the first of them.
    """
    greatest = max(token.weight for token in explanation.tokens) or 1.0
    seen = 0
    for token in explanation.tokens:
        shown = token.token if token.kind == "special" else explanation.given[max(seen, token.start) : token.end]
        before = "" if token.kind == "special" else explanation.given[seen : token.start]
        seen = max(seen, token.end)
        yield before, shown, token, token.weight / greatest


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
<p>{note} The stronger the colour, the larger the share; all shares sum to 1. Italics: added by the model.</p>
<p id="text">{text}</p>
<table>
<tr><th>token<th>share<th>times the even share
{rows}
</table>
</html>
"""


def _page(explanation: Explanation) -> str:
    colour = ",".join(map(str, COLOUR))
    text = "".join(_span(colour, *piece) for piece in _pieces(explanation))
    if explanation.unread:
        text += f' <span class="unread" title="not read: too long">{html.escape(explanation.unread)}</span>'
    note = "" if explanation.is_own else OTHER
    rows = [
        f"<tr><td>{html.escape(shown)}<td>{token.weight:.2%}<td>{token.weight * len(explanation.tokens):.1f} "
        f'<i style="width:{12 * strength:.2f}rem"></i>'
        for shown, token, strength in _heaviest(explanation)
    ]
    return PAGE.format(colour=colour, note=note, text=text, rows="\n".join(rows))


def _span(colour: str, before: str, shown: str, token: TokenWeight, strength: float) -> str:
    style = f"background:rgba({colour},{strength:.3f})"
    span = f'<span class="{token.kind}" title="{token.weight:.2%}" style="{style}">{html.escape(shown)}</span>'
    return html.escape(before) + span
