"""Shares of the tokens of a text in its embedding."""

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
"""The least number that `model.max_tokens` may be."""


@dataclass(frozen=True)
class TokenWeight:
    """A token, where it stands in the text, and its share in the embedding.

    Args:
        token: as the tokenizer's vocabulary has it.
        start: of the characters that it stands for, in the prompt and text together; `end` is the first after them.
        end: equal to `start` for special tokens.
        weight: all weights of a text sum to 1.
        kind: special tokens are those that the tokenizer adds.
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
        given: the prompt of the role, and the text.
        tokens: in their order; those of a text that is too long are fewer than the text.
        is_own: False where the model pools otherwise, and the weights are those that anchor pooling would give.
    """

    given: str
    tokens: list[TokenWeight]
    is_own: bool

    @property
    def unread(self) -> str:
        """The end of the text, which the model cut off."""
        return self.given[max((token.end for token in self.tokens), default=0) :].strip()


def explain(name: str | Path, text: str, role: Role = "document") -> Explanation:
    """Run one text through a model.

    Args:
        name: a saved model's folder, that of a run, or whatever `model.base` may be.
        text: what to read.
        role: whether the model's prompt for queries or that for documents goes before it.

    Raises:
        ConfigError: there is no such model, or it shows no attention.
        RunError: the files of the model are incomplete, the text has no tokens, or nobody can tell where in the text
            they stand.
    """
    base = str(model_folder_of(name)) if Path(as_path(name, "a model")).is_dir() else str(name)
    model = load_model(base) if Path(base, "modules.json").is_file() else load_base(base, key="MODEL")
    is_own = len(model) > 1 and isinstance(model[1], AnchorPooling)
    if not is_own:
        length = model.max_seq_length or 512
        model = build_model(ModelSection(base=base, max_tokens=max(length, MIN_TOKENS)))
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
        raise RunError("MODEL: its tokenizer is not a fast one, which alone tells where a token stands in the text.")
    read = tokenizer(prompt + text, truncation=True, max_length=model.max_seq_length, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(read["input_ids"])
    if not names:
        raise RunError(f"TEXT: there are no tokens in {text!r}; give some words.")
    if read["input_ids"] != features["input_ids"][0].tolist():
        raise RunError("MODEL: it puts texts into a template of its own, so nobody can tell where tokens stand.")
    return [
        TokenWeight(token, start, end, weight, _kind(start, end, len(prompt)))
        for token, (start, end), weight in zip(names, read["offset_mapping"], weights, strict=True)
    ]


def _kind(start: int, end: int, prompt: int) -> Kind:
    if start == end:
        return "special"
    return "prompt" if end <= prompt else "text"
