"""Queries with different prompts, in batches that a model encodes together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PROMPT_LENGTH = "prompt_length"
"""The feature with the number of tokens of the prompt: one number, or a tensor (rows,)."""


def has_prompt_lengths(features: Mapping[str, Any]) -> bool:
    """Return whether each row has a prompt length of its own."""
    return getattr(features.get(PROMPT_LENGTH), "ndim", 0) == 1 and len(features[PROMPT_LENGTH]) > 1


class PromptedBatch(NamedTuple):
    """Texts with one prompt, and their places among all texts."""

    places: list[int]
    texts: list[str]
    prompt: str


def leaves_out_prompts(model: "SentenceTransformer") -> bool:
    """Return whether the pooling leaves out the tokens of prompts."""
    return any(getattr(module, "include_prompt", True) is False for module in model)


def prompted_batches(
    model: "SentenceTransformer", texts: Sequence[str], prompts: Sequence[str]
) -> Iterator[PromptedBatch]:
    """Yield the texts in as few batches as give the same vectors as each text with its prompt alone.

    sentence-transformers takes one prompt for all texts. It needs to know it only to leave its tokens out of the
    pooling; otherwise the prompts may be part of the texts.
    """
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) > 1 and not leaves_out_prompts(model):
        joined = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        yield PromptedBatch(list(range(len(texts))), joined, "")
        return
    places: dict[str, list[int]] = {prompt: [] for prompt in distinct}
    for place, prompt in enumerate(prompts):
        places[prompt].append(place)
    for prompt, found in places.items():
        yield PromptedBatch(found, [texts[place] for place in found], prompt)
