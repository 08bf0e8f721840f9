"""What will be wrong with a model that is to be built, as far as its files tell without loading it. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.locate import find_base, prompts_of, prompts_to_train
from multigrain.vectors import ROLES, prompt_for

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SIZES = ("hidden_size", "n_embd", "dim", "d_model")
"""What architectures call the number of their layers, and the length of their vectors."""


def foresee(section: ModelSection, dimensions: Sequence[int] = ()) -> None:
    """Look into the base's folder, so that what it cannot have is told before the language model is paid.

    Of GGUF files and hub names nothing is known before.

    Args:
        section: the model.
        dimensions: to which its vectors are to be cut (training.matryoshka).

    Raises:
        ConfigError: the base is an adapter, has not so many layers, its vectors are not so long, or a prompt leaves no
            room for a text.
    """
    folder = Path(find_base(section.base, "model.base"))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise adapter_as_base(str(folder))
    if faults := [*_layer_faults(section, _setting(folder, LAYERS)), *_prompt_faults(section, folder)]:
        raise ConfigError("model", faults)
    size = _setting(folder, SIZES)
    if size and (too_long := [dimension for dimension in dimensions if dimension > size]):
        raise vectors_too_short(too_long, size)


def adapter_as_base(base: str) -> ConfigError:
    """What to say of a base that is no model by itself."""
    found = f"{base} is an adapter of another model; merge it first: multigrain merge {base} --out MERGED"
    return ConfigError("model.base", [found])


def vectors_too_short(dimensions: Sequence[int], size: int) -> ConfigError:
    """What to say of vectors that cannot be cut to such lengths."""
    return ConfigError("training.matryoshka", [f"found {list(dimensions)}; the vectors have {size} numbers"])


def _setting(folder: Path, names: Sequence[str]) -> int | None:
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return next((settings[name] for name in names if isinstance(settings.get(name), int)), None)
    except (OSError, ValueError, AttributeError):  # loading it will say what is wrong, if anything is
        return None


def _layer_faults(section: ModelSection, layers: int | None) -> list[str]:
    if layers is None:
        return []
    faults = [
        f"anchor.layers: there is no attention layer {layer}; the base has {layers}"
        for layer in section.anchor.layers
        if section.pooling == "anchor" and not -layers <= layer < layers
    ]
    if section.lora and (top := section.lora.top_layers or 0) > layers:
        faults.append(f"lora.top_layers: found {top}; the base has {layers} layers")
    return faults


def _prompt_faults(section: ModelSection, folder: Path) -> list[str]:
    try:
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises no narrower one; the transformer's own folder may be another
        return []
    tokenizer.no_padding()  # some files pad every text to a length, or cut it
    tokenizer.no_truncation()
    prompts = prompts_to_train(section, prompts_of(section.base) or {})
    lengths = {prompt: len(tokenizer.encode(prompt).ids) for role in ROLES if (prompt := prompt_for(role, prompts))}
    return [
        f"max_tokens: {section.max_tokens} tokens are read, and the prompt {prompt!r} alone takes {length}; raise it"
        for prompt, length in lengths.items()
        if length >= section.max_tokens
    ]
