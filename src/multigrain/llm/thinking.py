"""What many models write before they answer: their reasoning, told by its tags, and never taken for the answer.

Known are the tags of DeepSeek, Qwen and GLM (`<think>`), of Gemini, EXAONE, Seed and Kimi, of Mistral (`[THINK]`), of
Cohere, OpenThinker and Gemma, and the channels of gpt-oss. Where the chat template has written the opening tag, the
answer holds the closing one alone.
"""

import json
import re

ROOM = 4096
"""Tokens for its thoughts that a model which thinks gets on top of those for its answer."""

_NAME = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)"
_OPENING = re.compile(
    rf"\s*(?:<\|start\|>assistant)?(?:<{_NAME}\b[^<>/]*>|\[THINK\]|◁think▷"
    rf"|<\|(?:begin_of_thought|START_THINKING|{_NAME})\|>|<unused94>|<\|channel\|?>(?!final))",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"</{_NAME}\s*>|<{_NAME}\s*/>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING|/{_NAME})\|>"
    r"|<unused95>|<channel\|>"
    r"|<\|channel\|>final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
_MARKS = re.compile(
    r"\A\s*(?:<answer>|<\|(?:begin_of_solution|START_RESPONSE)\|>)"
    r"|(?:</answer>|<\|(?:end_of_solution|END_RESPONSE|end|return)\|>)\s*\Z",
    re.IGNORECASE,
)
"""What the same models put around the answer itself."""
_FENCE = re.compile(r"\s*(?:```\w*\s*)?(?=\{)")
_DECODER = json.JSONDecoder()


def answer_in(text: str, is_raw: bool = False) -> str | None:
    """The text after the last closing tag of reasoning, or the whole where there is none.

    A JSON object that stands alone is the answer, even if its texts are about such tags.

    Args:
        text: what the model wrote.
        is_raw: it goes on from a text of ours, without a chat template: then only what begins with a tag is reasoning.

    Returns:
        None where the reasoning never ends.
    """
    is_open = _OPENING.match(text) is not None
    if is_raw and not is_open:
        return text
    starts = [0, *(tag.end() for tag in _CLOSING.finditer(text))]
    start = next((start for start in starts if _is_object(text, start)), starts[-1])
    rest = text[start:]
    if _OPENING.match(rest):
        return None
    return _MARKS.sub("", rest) if start else rest


def _is_object(text: str, start: int) -> bool:
    """Whether the text from there is one JSON object, in a fence or not."""
    fence = _FENCE.match(text, start)
    if fence is None:
        return False
    try:
        _, end = _DECODER.raw_decode(text, fence.end())
    except (ValueError, RecursionError):
        return False
    return not _MARKS.sub("", text[end:]).strip("` \t\r\n")
