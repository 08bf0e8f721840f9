"""Notes on differences between the model to train and the settings, or the base. Does not import torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multigrain.config import ModelSection
from multigrain.model.files import folder_of
from multigrain.model.precheck.loading import own_code
from multigrain.model.saved_settings import (
    MODES,
    SENTENCE_TRANSFORMERS_FILE,
    dense_settings,
    own_pooling,
    settings_of,
    token_limit,
    transformer_of,
    vector_length,
)


def notes(section: ModelSection) -> list[str]:
    """Return a line for each difference between the model to train and the settings, or the base."""
    folder = folder_of(section.base)
    if folder is None:
        return []
    config = settings_of(transformer_of(folder), "config.json")
    return [
        *length_note(section.base, section.max_tokens, "model.max_tokens"),
        *_pooling_notes(section, folder),
        *_module_notes(folder, config),
        *_cut_notes(folder, config),
    ]


def length_note(name: str, max_tokens: int, key: str) -> list[str]:
    """Return a line if a model reads fewer tokens than the setting `key` asks for; otherwise none."""
    folder = folder_of(name)
    limit = token_limit(transformer_of(folder)) if folder else None
    if limit and limit < max_tokens:
        return [f"{key}: found {max_tokens}; {name} reads at most {limit} tokens of a text"]
    return []


def _pooling_notes(section: ModelSection, folder: Path) -> Iterator[str]:
    own = own_pooling(folder)
    if own and section.pooling not in ("base", own) and (own, section.pooling) != ("mean", "anchor"):
        keep = f'model.pooling = "{own}" keeps them' if own in MODES.values() else "multigrain does not offer it"
        place = f'the base pools by {own}; "{section.pooling}" replaces it, so training starts from other vectors'
        yield f"{place} than the base's ({keep})"


def _module_notes(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    if code := own_code(config, "AutoModel"):
        place = f"the {config.get('model_type')} of transformers replaces it"
        yield f"the base has its own code ({code}); {place}"
    if sizes := [f"{one.get('in_features')} -> {one.get('out_features')}" for one in dense_settings(folder)]:
        yield f"the base's Dense ({', '.join(sizes)}) is kept after the pooling"


def _cut_notes(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    size = settings_of(folder, SENTENCE_TRANSFORMERS_FILE).get("truncate_dim")
    length = vector_length(folder, config)
    if size and (length is None or size < length):
        yield f"vectors are truncated to {size} dimensions, as in the base; training uses both lengths"
