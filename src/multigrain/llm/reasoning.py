"""Separate the reasoning that many models write from their answers, so that it is never taken for an answer.

Known formats are the tags of DeepSeek, Qwen and GLM (`<think>`), of Gemini, EXAONE, Seed and Kimi, of Mistral
(`[THINK]`), and of Cohere, OpenThinker, Gemma and Apertus; the phrases of Granite; and the channels of gpt-oss. If the
chat template writes the opening tag, the answer holds only the closing one.
"""

import json
import re
from collections.abc import Iterator

REASONING_TOKENS = 4096
"""Tokens that a reasoning model gets for its reasoning, in addition to those for its answer."""

_NAME = (
    r"(?:seed:)?(?:(?:internal|inner)[_-])?"
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|monologue|reflection|scratchpad)(?:[_-]process)?"
)
_OPENING = (
    rf"(?:(?:<\|start\|>assistant)?(?:<{_NAME}\b[^<>/]*>|\[THINK\]|◁think▷"
    rf"|<\|(?:begin_of_thought|START_THINKING|inner_prefix|{_NAME})\|>|<unused94>|<\|channel\|?>(?!final))"
    r"|Here(?: is|[\u2019']s) my thought process:)"
)
_CLOSING = (
    rf"</{_NAME}\s*>|<{_NAME}\s*/>|\[/THINK\]|◁/think▷"
    rf"|<\|(?:end_of_thought|END_THINKING|inner_suffix|/{_NAME})\|>|<unused95>|<channel\|>"
    r"|<\|channel\|>final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistantfinal"
    r"|Here(?: is|[\u2019']s) my response:"
)
_TAGS = re.compile(
    rf"(?P<closing>{_CLOSING})"
    # Not within a sentence, which may be about such a tag, unless text follows the tag directly.
    rf"|(?P<opening>(?:^|(?<=[.!?:)}}>\]▷`]))[ \t]*{_OPENING}|{_OPENING}(?=[\w{{\n]))"
    r"|(?P<object>\{)",
    re.IGNORECASE | re.MULTILINE,
)
_BEGINNING = re.compile(rf"\s*{_OPENING}", re.IGNORECASE)
_MARKS = re.compile(
    r"\A\s*(?:(?:<(?:answer|response)>|<\|(?:begin_of_solution|START_RESPONSE|begin_of_box)\|>)\s*)+"
    r"|(?:(?:</(?:answer|response|s)>|<end_of_turn>|<\uff5cend▁of▁sentence\uff5c>"
    r"|<\|(?:end_of_solution|END_RESPONSE|end_of_box|end|return|im_end|eot|eot_id|eom_id|end_of_text|endoftext|end_of_turn"
    r"|END_OF_TURN_TOKEN|assistant_end|user)\|>)\s*){1,4}\Z",
    re.IGNORECASE,
)
"""Marks that models put around the answer itself, and special tokens that some servers leave in."""
_MOST_FAILURES = 500
"""Braces found to begin no object after which no more are tried: each try may read the whole text."""
_DECODER = json.JSONDecoder()


def answer_in(text: str, is_raw: bool = False) -> str | None:
    """Return the text after the last closing tag of reasoning, or the whole text if there is no such tag.

    Tags inside a JSON object belong to its texts. A JSON object followed only by reasoning is the answer.

    Args:
        text: what the model wrote.
        is_raw: whether the text is a raw completion, without a chat template; it then holds reasoning only if it begins
            with an opening tag.

    Returns:
        The answer; None if the reasoning never ends.

    Example:
        >>> answer_in("<think>Leaves, or a drink?</think>A drink.")
        'A drink.'
    """
    rest = _rest(text, is_raw)
    return None if rest is None else unmarked(rest)


def has_reasoning(text: str, is_raw: bool = False) -> bool:
    """Return whether part of a text is reasoning; see `answer_in` for `is_raw`."""
    return _rest(text, is_raw) != text


def unmarked(text: str) -> str:
    """Return a text without the marks around it: those of an answer, a box, or the end of a turn."""
    return _MARKS.sub("", text)


def _rest(text: str, is_raw: bool) -> str | None:
    """Return the text without its reasoning, with all marks; None if the reasoning never ends."""
    if is_raw and not _BEGINNING.match(text):
        return text
    start, opened, before = 0, -1, ""
    for tag in _tags(text):
        if tag.lastgroup == "closing":
            before = text[start:opened] if opened >= 0 else ""
            start, opened = tag.end(), -1
        elif opened < 0:
            opened = tag.start()
    if opened >= 0:
        return None
    is_last = not unmarked(text[start:]).strip()
    return before if is_last and _is_object(before) else text[start:]


def _tags(text: str) -> Iterator[re.Match[str]]:
    """Yield the tags of reasoning outside JSON objects."""
    position = failures = 0
    while tag := _TAGS.search(text, position):
        position = tag.end()
        if tag.lastgroup != "object":
            yield tag
        elif failures < _MOST_FAILURES:
            end = _end_of_object(text, tag.start())
            failures += end is None
            position = end or position


def _end_of_object(text: str, start: int) -> int | None:
    """Return the end of the JSON object that begins at `start`; None if there is none."""
    try:
        return _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    """Return whether a text is a single JSON object, fenced or not."""
    bare = re.sub(r"\A\s*```\w*\s*|\s*```\s*\Z", "", unmarked(text)).strip()
    return bare.startswith("{") and _end_of_object(bare, 0) == len(bare)
