"""A saved model in the words of sentence-transformers 5 and transformers 4, which 6 and 5 read as well.

Older releases, and servers that read the files by themselves (TEI, vLLM), know neither the places to which modules
moved in sentence-transformers 6, nor its compact settings of a pooling. Nothing is lost: a folder whose settings have
no older words keeps the new ones.
"""

import json
from pathlib import Path
from typing import Any

from multigrain.files import write_json
from multigrain.model.saved_settings import LEGACY_MODES, modules_of, settings_of

OLDEST = "5.1"
"""The release of sentence-transformers from which on a model with the host's own modules can be loaded."""
OLDEST_ANCHOR = "6.2"
"""The same for anchor pooling, and whatever else brings our code."""
PLACE = "sentence_transformers.models"
NAMES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")
"""Modules that sentence-transformers 5 has there."""
NEW_DEFAULTS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
"""Settings of a transformer that older releases do not know, and what they do all the same."""


def write_in_old_words(folder: Path, max_tokens: int | None) -> None:
    """Rewrite the settings of a saved model where all of its modules are the host's.

    Args:
        folder: the model's.
        max_tokens: its greatest length.
    """
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[0] != "Transformer" or not {*kinds} <= {*NAMES} or (folder / "adapter_config.json").is_file():
        return
    if not _rewrite_transformer(folder, max_tokens):
        return
    for module, kind in zip(modules[1:], kinds[1:], strict=True):
        _rewrite(folder / module["path"] / "config.json", kind)
    write_json(folder / "modules.json", [{**m, "type": f"{PLACE}.{k}"} for m, k in zip(modules, kinds, strict=True)])
    _rewrite_config(folder / "config.json")
    _rewrite_tokenizer(folder / "tokenizer_config.json")


def least_release(folder: Path) -> str:
    """The first release of sentence-transformers that loads a saved model."""
    modules = modules_of(folder)
    is_in_old_words = bool(modules) and all(module["type"].startswith(f"{PLACE}.") for module in modules)
    return OLDEST if is_in_old_words else OLDEST_ANCHOR


def _rewrite_transformer(folder: Path, max_tokens: int | None) -> bool:
    """Whether it can be said in old words."""
    path = folder / "sentence_bert_config.json"
    settings = {k: value for k, value in settings_of(folder, path.name).items() if NEW_DEFAULTS.get(k) != value}
    if not {*settings} <= {"max_seq_length", "do_lower_case"}:
        return False
    write_json(path, {"max_seq_length": max_tokens, "do_lower_case": False, **settings})
    return True


def _rewrite(path: Path, kind: str) -> None:
    settings = settings_of(path.parent, path.name)
    if kind == "Pooling":
        modes = settings["pooling_mode"]
        modes = [modes] if isinstance(modes, str) else modes
        flags = {name: mode in modes for name, mode in LEGACY_MODES.items()}
        size, with_prompt = settings["embedding_dimension"], settings["include_prompt"]
        # Some readers take the first setting that is true for the pooling.
        write_json(path, {"word_embedding_dimension": size, **flags, "include_prompt": with_prompt})
    elif kind == "Dense":
        places = ("module_input_name", "module_output_name")
        write_json(path, {k: v for k, v in settings.items() if k not in places or v != "sentence_embedding"})


def _rewrite_config(path: Path) -> None:
    """Say at the old place too how positions turn; transformers 4 would take its own default without a word."""
    settings = settings_of(path.parent, path.name)
    turn = settings.get("rope_parameters")
    if not isinstance(turn, dict) or "rope_theta" not in turn or "rope_theta" in settings:
        return
    scaling = {name: value for name, value in turn.items() if name != "rope_theta"}
    settings["rope_theta"] = turn["rope_theta"]
    if scaling.get("rope_type", "default") != "default":
        settings["rope_scaling"] = scaling
    write_json(path, settings)


def _rewrite_tokenizer(path: Path) -> None:
    """Transformers 4 calls the tokenizer of any `tokenizer.json` by another name, which 5 knows too."""
    settings = settings_of(path.parent, path.name)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        write_json(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
