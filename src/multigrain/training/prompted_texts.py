"""Texts with a prompt of their own: queries, whose prompts differ if their pairs have different instructions."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from multigrain.model.prompted_batches import PROMPT_LENGTH, leaves_out_prompts
from multigrain.training.unique_texts import Features


class PromptedText(NamedTuple):
    """A text, and the prompt before it."""

    prompt: str
    text: str


def preprocessed(model: SentenceTransformer, texts: Sequence[Any], **arguments: Any) -> Features:
    """Tokenize a column for the trainer: texts with their own prompts, or else as the model does it."""
    if texts and isinstance(texts[0], PromptedText):
        return tokenized(model, texts)
    features: Features = model.preprocess(list(texts), **arguments)
    return features


def tokenized(model: SentenceTransformer, texts: Sequence[PromptedText]) -> Features:
    """Return the token ids of texts, each with its prompt.

    If the prompts differ and the pooling leaves them out, the features have the number of tokens of each prompt, (B,).
    """
    prompts = {each.prompt for each in texts}
    features: Features
    if len(prompts) == 1:  # as sentence-transformers reads a column
        features = model.preprocess([each.text for each in texts], prompt=prompts.pop() or None)
        return features
    features = model.preprocess([each.prompt + each.text for each in texts])
    if leaves_out_prompts(model):
        transformer = cast(Transformer, model[0])
        lengths = {prompt: transformer._get_prompt_length(prompt) or 0 if prompt else 0 for prompt in prompts}
        features[PROMPT_LENGTH] = torch.tensor([lengths[each.prompt] for each in texts])
    return features
