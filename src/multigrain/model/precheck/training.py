"""Find faults in a base's files that prevent training it with the given settings. Does not import torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from multigrain.config import BLANK, AdaptSection, LoraSection, ModelSection
from multigrain.model.architectures import is_decoder
from multigrain.model.file_integrity import shapes_in
from multigrain.model.refusals import mask_fault, unfit_dense
from multigrain.model.saved_settings import (
    HIDDEN_SIZES,
    LAYER_COUNTS,
    POSITIONS,
    class_of,
    dense_settings,
    first_number,
    modules_of,
    own_poolings,
    settings_of,
    transformer_of,
)

POOLINGS = ("Pooling", "AnchorPooling")
KEPT = ("Dense", "LayerNorm", "Dropout")
"""Modules after the pooling that are kept in the trained model."""
NO_DEFAULTS = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes without special tokens, unless their settings name some."""


def module_faults(section: ModelSection, folder: Path) -> Iterator[str]:
    """Yield a message for each module that does not fit: training wants a transformer, a pooling, then kept modules."""
    kinds = [class_of(module) for module in modules_of(folder)]
    if kinds and not kinds[0].endswith("Transformer"):
        yield f"its first module is a {kinds[0]}; wanted a transformer"
    pooling = next((place for place, kind in enumerate(kinds) if kind in POOLINGS), len(kinds))
    after = (*KEPT, "Normalize")
    if lost := [*kinds[1:pooling], *(kind for kind in kinds[pooling + 1 :] if kind not in after)]:
        yield f"it has modules that training would drop: {', '.join(lost)}"
    yield from _dense_faults(section, folder)


def _dense_faults(section: ModelSection, folder: Path) -> Iterator[str]:
    size = first_number(settings_of(transformer_of(folder), "config.json"), HIDDEN_SIZES)
    if size and section.pooling == "base":
        size *= max(1, len(own_poolings(folder)))  # they are concatenated
    for settings in dense_settings(folder):
        if settings.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            yield "its Dense reads token vectors, not the text vector"
        activation = str(settings.get("activation_function", "torch."))
        if not activation.startswith("torch."):
            yield f"its Dense has its own code ({activation}), which multigrain does not run"
        if size and settings.get("in_features", size) != size:
            yield unfit_dense(settings["in_features"], size)
        size = settings.get("out_features")


def eos_faults(inner: Path) -> Iterator[str]:
    """Yield a message if a decoder's texts cannot end in a special token.

    Every text has to end in one: the token that the tokenizer already adds, or the EOS token.

    Args:
        inner: the folder of the transformer.
    """
    tokenizer = tokenizer_in(inner)
    if tokenizer is None or not is_decoder(str(settings_of(inner, "config.json").get("model_type"))):
        return
    if not ends_in_special(tokenizer) and not _may_have(inner, "eos_token"):
        yield "its tokenizer has no EOS token, which decoders need at the end of a text"


def _may_have(inner: Path, name: str) -> bool:
    """Return whether the tokenizer has a special token of this name, by its settings or perhaps by its class."""
    settings = settings_of(inner, "tokenizer_config.json")
    named = settings.get(name) or settings_of(inner, "special_tokens_map.json").get(name)
    return bool(named) or settings.get("tokenizer_class") not in NO_DEFAULTS


def adaptation_faults(section: AdaptSection, inner: Path) -> Iterator[str]:
    """Yield a message for each setting of the adaptation that a base does not support.

    Args:
        section: the settings of the adaptation.
        inner: the folder of the base's transformer.
    """
    tokenizer = tokenizer_in(inner)
    if tokenizer is not None and (section.mask_token or not _may_have(inner, "mask_token")):
        mask = section.mask_token or BLANK
        if fault := mask_fault(mask, len(tokenizer.encode(mask, add_special_tokens=False).ids)):
            yield f"mask_token: {fault}"
    positions = first_number(settings_of(inner, "config.json"), POSITIONS)
    if positions is not None and 0 < positions < section.max_tokens:
        yield f"max_tokens: found {section.max_tokens}; wanted at most {positions}, the number of the base's positions"


def section_faults(section: ModelSection, inner: Path) -> list[str]:
    """Return a message for each setting that a base does not support.

    Args:
        section: the model settings.
        inner: the folder of the base's transformer.
    """
    faults = [*_layer_faults(section, inner)]
    if section.lora:
        faults += _target_faults(section.lora, inner)
    return faults


def _layer_faults(section: ModelSection, inner: Path) -> Iterator[str]:
    layers = first_number(settings_of(inner, "config.json"), LAYER_COUNTS)
    if layers is None:
        return
    for layer in section.anchor.layers:
        if section.pooling == "anchor" and not -layers <= layer < layers:
            yield f"anchor.layers: there is no attention layer {layer}; the base has {layers}"
    if type(section.bidirectional) is int and section.bidirectional > layers:
        yield f"bidirectional: found {section.bidirectional}; the base has {layers} layers"
    if section.lora and (top := section.lora.top_layers or 0) > layers:
        yield f"lora.top_layers: found {top}; the base has {layers} layers"


def _target_faults(section: LoraSection, inner: Path) -> list[str]:
    """Return a message if a target of an adapter matches no module with weights in the files."""
    shapes: dict[str, list[int]] = {}
    for file in inner.glob("*.safetensors"):
        shapes |= shapes_in(file)
    if section.targets == "all-linear" or not shapes:
        return []
    parts: set[str] = set()
    for name in shapes:
        parts.update(_modules_around(name))
    unknown = [target for target in section.targets if f".{target}" not in parts]
    linear = {name.split(".")[-2] for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1}
    known = ", ".join(sorted(name for name in linear if "embedding" not in name))
    return [f"lora.targets: found {unknown}; the base has {known}"] if unknown else []


def _modules_around(name: str) -> Iterator[str]:
    """Yield all names, with a leading dot, that can refer to a module around a weight.

    >>> list(_modules_around("layer.0.query.weight"))
    ['.query', '.0.query', '.layer.0.query', '.0', '.layer.0', '.layer']
    """
    parts = name.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        for start in range(end - 1, -1, -1):
            yield "." + ".".join(parts[start:end])


def tokenizer_in(inner: Path) -> Any | None:
    """Read the tokenizer in a folder; return None if there is no fast tokenizer."""
    try:
        tokenizer: Any = Tokenizer.from_file(str(inner / "tokenizer.json"))
    except Exception:  # the library raises no narrower one
        return None
    tokenizer.no_padding()  # some files pad or truncate every text
    tokenizer.no_truncation()
    return tokenizer


def special_tokens(tokenizer: Any) -> set[int]:
    """Return the ids of the special tokens of a tokenizer."""
    return {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def ends_in_special(tokenizer: Any) -> bool:
    """Return whether a tokenizer ends every text in a special token."""
    special = special_tokens(tokenizer)
    return all(special.intersection(tokenizer.encode(text).ids[-1:]) for text in ("a", ""))
