"""Settings of a saved model, read from its JSON files without loading it. Does not import torch.

Unreadable files count as absent here; loading the model reports what is wrong with them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SENTENCE_TRANSFORMERS_FILE = "config_sentence_transformers.json"
"""The file with a model's prompts, among other settings."""
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names that architectures use for the number of layers."""
HIDDEN_SIZES = ("hidden_size", "n_embd", "dim", "d_model")
"""Names that architectures use for the length of their vectors."""
POSITIONS = ("max_position_embeddings", "n_positions")
"""Names that architectures use for the number of positions."""
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Files with the settings of the sentence-transformers Transformer module."""
PADDING_OFFSET = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "xmod"),
    *("mpnet", "longformer", "luke", "esm", "markuplm", "lilt"),
)
"""Architectures that number positions from the one after their padding token."""
ABSOLUTE = ("bert", "distilbert", "electra", "albert", "mobilebert", "convbert", "ernie", "nystromformer")
"""Other architectures with a table of positions, which limits texts whatever length the model was saved with."""
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Pooling settings of sentence-transformers before 6, and the mode that each means since."""
MODES = {"cls": "cls", "mean": "mean", "weightedmean": "weighted", "lasttoken": "last"}
"""Pooling modes of sentence-transformers that `model.pooling` offers, and their names there."""


def modules_of(folder: Path) -> list[dict[str, str]]:
    """List the modules in `modules.json`, each with its type and path; none if the file is missing or damaged."""
    try:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return [{"type": str(module["type"]), "path": str(module.get("path") or "")} for module in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def class_of(module: dict[str, str]) -> str:
    """Return the name of a module's class.

    >>> class_of({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    'Dense'
    """
    return module["type"].rpartition(".")[2]


def settings_of(folder: Path | None, *names: str) -> dict[str, Any]:
    """Read the first of these JSON files that exists; return {} if none does, or it is damaged."""
    if folder is None:
        return {}
    return next((read_settings(folder / name) for name in names if (folder / name).is_file()), {})


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of settings; return {} if it is damaged, or not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def first_number(config: dict[str, Any], names: Sequence[str]) -> int | None:
    """Return the first integer that a configuration has under one of these names; None if there is none."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def transformer_of(folder: Path) -> Path:
    """Return the folder of a model's transformer; older models have each module in its own folder."""
    return folder / next((module["path"] for module in modules_of(folder)), "")


def dense_settings(folder: Path) -> list[dict[str, Any]]:
    """Read the settings of a model's Dense modules, in order."""
    dense = [module for module in modules_of(folder) if class_of(module) == "Dense"]
    return [settings_of(folder / module["path"], "config.json") for module in dense]


def vector_length(folder: Path, config: dict[str, Any]) -> int | None:
    """Return the length of a model's vectors before truncation; None if its files do not say it.

    Args:
        folder: the model's folder.
        config: the configuration of its transformer.
    """
    last = next((settings.get("out_features") for settings in reversed(dense_settings(folder))), None)
    return last if isinstance(last, int) else first_number(config, HIDDEN_SIZES)


def own_pooling(folder: Path) -> str | None:
    """Return the pooling of a saved model, in words; None if its files do not say it."""
    return " and ".join(own_poolings(folder)) or None


def own_poolings(folder: Path) -> list[str]:
    """Return the poolings that a saved model concatenates, named as in `model.pooling` if possible.

    Nearly all models have one. The list is empty if the files do not say it.
    """
    place = next((module["path"] for module in modules_of(folder) if class_of(module) == "Pooling"), None)
    if place is None:
        return []
    settings = settings_of(folder / place, "config.json")
    legacy = [name for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    modes = settings.get("pooling_mode") or [LEGACY_MODES.get(name, name) for name in legacy]
    modes = [modes] if isinstance(modes, str) else [str(mode) for mode in modes]
    return [MODES.get(mode, mode) for mode in modes]


def token_limit(inner: Path) -> int | None:
    """Return the maximum number of tokens that a model reads: its saved length, limited by its positions.

    Loading the model gives the same length.

    Args:
        inner: the folder of its transformer.
    """
    config = settings_of(inner, "config.json")
    kind, positions = config.get("model_type"), first_number(config, POSITIONS)
    saved = settings_of(inner, *SENTENCE_CONFIGS).get("max_seq_length")
    lengths = [saved] if saved else [settings_of(inner, "tokenizer_config.json").get("model_max_length"), positions]
    if kind in ABSOLUTE and config.get("position_embedding_type", "absolute") == "absolute":
        lengths.append(positions)
    if kind in PADDING_OFFSET and isinstance(positions, int):
        padding = config.get("pad_token_id")
        padding = padding if isinstance(padding, int) and kind != "mpnet" else 1
        lengths.append(positions - padding - 1)
    return min((int(length) for length in lengths if isinstance(length, int | float) and length > 0), default=None)
