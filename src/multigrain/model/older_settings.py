"""Write a saved model's settings as sentence-transformers 5 and transformers 4 do; releases 6 and 5 read them too.

Older releases, and servers with their own readers (TEI, vLLM), know neither the new module paths of
sentence-transformers 6 nor its compact pooling settings. Nothing is lost: if the older format cannot express a folder's
settings, the folder keeps the new format.
"""

import json
from pathlib import Path
from typing import Any

from multigrain.files import write_json
from multigrain.model.saved_settings import LEGACY_MODES, class_of, modules_of, settings_of

OLDEST = "5.1"
"""First release of sentence-transformers that loads a model with standard modules only."""
OLDEST_ANCHOR = "6.2"
"""First release of sentence-transformers that loads anchor pooling and other models with multigrain's code."""
PLACE = "sentence_transformers.models"
NAMES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")
"""Modules that sentence-transformers 5 has in `PLACE`."""
NEW_DEFAULTS: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
"""Transformer settings that older releases do not know, with the values that match their behaviour."""


def write_legacy_settings(folder: Path, max_tokens: int | None) -> None:
    """Rewrite the settings of a saved model, if all of its modules come from sentence-transformers.

    Args:
        folder: the model's folder.
        max_tokens: the maximum number of tokens that the model reads.
    """
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [class_of(module) for module in modules]
    if kinds[0] != "Transformer" or not {*kinds} <= {*NAMES} or (folder / "adapter_config.json").is_file():
        return
    if not _rewrite_transformer(folder, max_tokens):
        return
    for module, kind in zip(modules[1:], kinds[1:], strict=True):
        _rewrite(folder / module["path"] / "config.json", kind)
    for module, kind in zip(modules, kinds, strict=True):
        module["type"] = f"{PLACE}.{kind}"
    write_json(folder / "modules.json", modules)
    _rewrite_config(folder / "config.json")
    _rewrite_tokenizer(folder / "tokenizer_config.json")


def least_release(folder: Path) -> str:
    """Return the first release of sentence-transformers that loads a saved model."""
    modules = modules_of(folder)
    is_legacy = bool(modules) and all(module["type"].startswith(f"{PLACE}.") for module in modules)
    return OLDEST if is_legacy else OLDEST_ANCHOR


def brings_code(folder: Path) -> bool:
    """Tell whether a saved model has modules of multigrain, so that others load it with `trust_remote_code`."""
    return any(not module["type"].startswith("sentence_transformers.") for module in modules_of(folder))


def _rewrite_transformer(folder: Path, max_tokens: int | None) -> bool:
    """Rewrite the settings of the transformer; return False if the older format cannot express them."""
    path = folder / "sentence_bert_config.json"
    saved = settings_of(folder, path.name)
    settings = {name: value for name, value in saved.items() if NEW_DEFAULTS.get(name) != value}
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
        # Some readers use the first flag that is true as the pooling mode.
        write_json(path, {"word_embedding_dimension": size, **flags, "include_prompt": with_prompt})
    elif kind == "Dense":
        for name in ("module_input_name", "module_output_name"):
            if settings.get(name) == "sentence_embedding":
                del settings[name]
        write_json(path, settings)


def _rewrite_config(path: Path) -> None:
    """Write the RoPE settings at the old place too; without them, transformers 4 silently uses its default."""
    settings = settings_of(path.parent, path.name)
    rope = settings.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope or "rope_theta" in settings:
        return
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    settings["rope_theta"] = rope["rope_theta"]
    if scaling.get("rope_type", "default") != "default":
        settings["rope_scaling"] = scaling
    write_json(path, settings)


def _rewrite_tokenizer(path: Path) -> None:
    """Name the tokenizer class as transformers 4 does; transformers 5 knows both names."""
    settings = settings_of(path.parent, path.name)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        write_json(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
