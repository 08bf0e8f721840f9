"""Compute the share of each token of a text in its embedding."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from sentence_transformers.util import batch_to_device

from multigrain.config import ModelSection, as_path, model_folder_of
from multigrain.errors import RunError
from multigrain.model.build import build_model
from multigrain.model.load import load_base, load_model
from multigrain.model.pooling import AnchorPooling
from multigrain.model.roles import Role, prompt_for

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Kind = Literal["text", "prompt", "special"]
MIN_TOKENS = 8
"""The smallest allowed `model.max_tokens`."""


@dataclass(frozen=True)
class TokenWeight:
    """A token, its place in the text, and its share in the embedding.

    Args:
        token: the token, as written in the tokenizer's vocabulary.
        start: index of its first character in the prompt followed by the text.
        end: index after its last character; equal to `start` for special tokens.
        weight: its share; the weights of a text sum to 1.
        kind: whether it belongs to the text or the prompt, or is a special token added by the tokenizer.
    """

    token: str
    start: int
    end: int
    weight: float
    kind: Kind


@dataclass(frozen=True)
class Explanation:
    """The tokens of a text with their weights.

    Args:
        given: the prompt of the role, followed by the text.
        tokens: the tokens in order; a text that is too long is truncated.
        is_own: whether the model itself uses anchor pooling; if not, the weights show what anchor pooling would give.
    """

    given: str
    tokens: list[TokenWeight]
    is_own: bool

    @property
    def unread(self) -> str:
        """The end of the text that the model does not read."""
        return self.given[max((token.end for token in self.tokens), default=0) :].strip()


def explain(name: str | Path, text: str, role: Role = "document") -> Explanation:
    """Run one text through a model, and return the weights of its tokens.

    Args:
        name: the folder of a saved model or of a run, or any value of `model.base`.
        text: the text.
        role: selects the model's query or document prompt.

    Raises:
        ConfigError: the model does not exist, or its attention is not accessible.
        RunError: the model's files are incomplete, the text has no tokens, or the place of the tokens in the text is
            unknown.
    """
    base = str(model_folder_of(name)) if Path(as_path(name, "a model")).is_dir() else str(name)
    model = load_model(base) if Path(base, "modules.json").is_file() else load_base(base, key="MODEL")
    is_own = len(model) > 1 and isinstance(model[1], AnchorPooling)
    if not is_own:
        length = model.max_seq_length or 512
        model = build_model(ModelSection(base=base, pooling="anchor", max_tokens=max(length, MIN_TOKENS)))
        model.max_seq_length = length
    prompt = prompt_for(role, model.prompts)
    return Explanation(prompt + text, _tokens(model, text, prompt), is_own)


def _tokens(model: "SentenceTransformer", text: str, prompt: str) -> list[TokenWeight]:
    features: Any = batch_to_device(model.preprocess([text], prompt=prompt), model.device)
    pooling = cast(AnchorPooling, model[1])
    with torch.no_grad():
        weights = pooling.weights(model[0](features))[0].tolist()
    tokenizer: Any = model.tokenizer
    if not tokenizer.is_fast:
        raise RunError("MODEL: its tokenizer is not a fast one; only a fast one shows which characters a token covers.")
    read = tokenizer(prompt + text, truncation=True, max_length=model.max_seq_length, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(read["input_ids"])
    if not names:
        raise RunError(f"TEXT: {text!r} has no tokens; give some words.")
    if read["input_ids"] != features["input_ids"][0].tolist():
        raise RunError("MODEL: it puts texts into its own template, so the place of a token in the text is unknown.")
    return [
        TokenWeight(token, start, end, weight, _kind(start, end, len(prompt)))
        for token, (start, end), weight in zip(names, read["offset_mapping"], weights, strict=True)
    ]


def _kind(start: int, end: int, prompt: int) -> Kind:
    if start == end:
        return "special"
    return "prompt" if end <= prompt else "text"
