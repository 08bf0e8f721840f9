"""Find faults in a model's files that prevent loading it. Does not import torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multigrain.model.architectures import is_class, is_known
from multigrain.model.file_integrity import settings_faults, weight_faults
from multigrain.model.saved_settings import SENTENCE_CONFIGS, class_of, modules_of, settings_of, transformer_of

OURS = (
    *("pooling.AnchorTransformer", "pooling.AnchorPooling"),
    *("multigrain.model.pooling.AnchorTransformer", "multigrain.model.pooling.AnchorPooling"),
)
"""Names of multigrain's modules in `modules.json`."""
WITH_WEIGHTS = ("Dense", "LayerNorm")
"""Modules with a weight file."""
TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "merges.txt")
"""Files of a tokenizer; a model has at least one of them."""
OWN_CODE = "of its own, which multigrain does not run"


def loading_faults(folder: Path, is_all_here: bool, loader: str) -> Iterator[str]:
    """Yield a message for each fault of a model's files.

    Args:
        folder: the model's folder.
        is_all_here: whether an absent file counts as missing; otherwise the hub may still provide it.
        loader: the transformers class that will load the model.
    """
    yield from settings_faults(folder)
    modules = modules_of(folder)
    types = [module["type"] for module in modules]
    if foreign := [name for name in types if not name.startswith("sentence_transformers.") and name not in OURS]:
        yield f"it has modules {OWN_CODE} ({', '.join(foreign)})"
    if modules and not class_of(modules[0]).endswith("Transformer"):
        return
    inner = transformer_of(folder)
    config = settings_of(inner, "config.json")
    yield from _architecture_faults(config, loader)
    if config or (inner / "adapter_config.json").is_file():
        yield from weight_faults(inner, is_all_here)
    for module in modules:
        if module["path"]:
            yield from settings_faults(folder / module["path"])
        if class_of(module) in WITH_WEIGHTS:
            yield from weight_faults(folder / module["path"], is_all_here)
    if is_all_here and config and not _has_tokenizer(inner):
        yield f"there is no tokenizer file in {inner} ({', '.join(TOKENIZERS)})"


def _architecture_faults(config: dict[str, Any], loader: str) -> Iterator[str]:
    kind, own = config.get("model_type"), own_code(config, loader)
    if kind and not is_known(kind):
        code = f"; it has code {OWN_CODE}" if "auto_map" in config else ""
        yield f'transformers knows no architecture "{kind}"{code}'
    elif own and not is_class(own.rpartition(".")[2]):
        # transformers would use its own architecture of that name, with random weights.
        yield f"it has code {OWN_CODE} ({own}), though it calls itself {kind}"


def own_code(config: dict[str, Any], loader: str) -> str | None:
    """Return the model's own code for the transformers class that loads it; None if it has none."""
    code = config.get("auto_map")
    return str(code[loader]) if isinstance(code, dict) and code.get(loader) else None


def _has_tokenizer(inner: Path) -> bool:
    return any(path for pattern in TOKENIZERS for path in inner.glob(pattern))


def pooling_fault(folder: Path) -> str | None:
    """Return a message if no module pools the token vectors into one vector; None if one does."""
    kinds = [class_of(module) for module in modules_of(folder)]
    output = settings_of(transformer_of(folder), *SENTENCE_CONFIGS).get("module_output_name", "token_embeddings")
    if not kinds or not kinds[0].endswith("Transformer") or output == "sentence_embedding":
        return None
    if any(kind.endswith("Pooling") for kind in kinds):
        return None
    found = f"its modules.json lists no pooling module ({', '.join(kinds)}), so it gives no text vectors"
    return f"{found}; add one, or delete modules.json to use mean pooling"
