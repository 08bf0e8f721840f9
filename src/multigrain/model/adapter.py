"""Low-rank adapters: add one to a model, check its base, and merge it into the weights.

Sources: LoRA (arXiv 2106.09685), QLoRA (arXiv 2305.14314), DoRA (arXiv 2402.09353), through the package peft.
"""

import re
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from multigrain.config import LoraSection
from multigrain.errors import ConfigError, RunError, first_line
from multigrain.model.chat_template import copy_tokenization
from multigrain.model.left_out_heads import heads_left_out
from multigrain.model.pooling import AnchorPooling, AnchorTransformer

LINEAR = (nn.Linear, Conv1D)
"""Layers selected by "all-linear"; GPT-2 uses Conv1D."""


def add_adapter(model: PreTrainedModel, section: LoraSection) -> None:
    """Freeze a model and add a trainable adapter, in float32 whatever the model's precision.

    Raises:
        ConfigError: the model has fewer layers, or lacks a target.
    """
    settings = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha or 2 * section.rank,
        lora_dropout=section.dropout,
        target_modules=_targets(model, section),
        use_dora=section.dora,
    )
    try:
        model.add_adapter(settings)
    except ValueError as error:
        raise ConfigError("model.lora", [first_line(error)]) from error
    cast_adapter_dtype(model, "default")
    if (base := Path(model.name_or_path)).is_dir():  # absolute, so that the adapter loads from any directory
        settings.base_model_name_or_path = str(base.absolute())


def _targets(model: PreTrainedModel, section: LoraSection) -> list[str] | str:
    """Return the configured targets, or their full names if only the last layers get an adapter.

    The first number in a name is the index of the layer.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    names = linear
    if section.targets != "all-linear":
        names = [name for name, _ in model.named_modules() if any(_matches(name, target) for target in section.targets)]
        unknown = [target for target in section.targets if not any(_matches(name, target) for name in names)]
        if unknown or not names:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError("model.lora.targets", [f"found {unknown}; the base has {known}"])
    if section.top_layers is None:
        return section.targets
    layers, top = model.config.num_hidden_layers, section.top_layers
    if top > layers:
        raise ConfigError("model.lora.top_layers", [f"found {top}; the base has {layers} layers"])
    chosen = []
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        if number and int(number[1]) >= layers - top:
            chosen.append(name)
    if not chosen:
        raise ConfigError("model.lora.targets", [f"found {section.targets}; the last {top} layers have none of them"])
    return chosen


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def has_adapter(model: nn.Sequential) -> bool:
    """Return whether a model has an adapter that could be merged."""
    return bool(getattr(getattr(model[0], "model", None), "_hf_peft_config_loaded", False))


def base_of(model: SentenceTransformer) -> str:
    """Return the folder or hub name of the model that the adapter was trained on."""
    frame: Any = model[0]
    return str(frame.model.peft_config["default"].base_model_name_or_path)


def merge(model: SentenceTransformer) -> SentenceTransformer:
    """Merge the adapter of a model into the weights of its base, in the base's precision, never in 4 bits.

    The result needs no other folder and is as fast as the base. An AnchorTransformer that is no longer needed is
    replaced by the Transformer of sentence-transformers.

    Raises:
        RunError: the adapter contains whole modules.
    """
    old: Any = model[0]
    adapter = old.model.peft_config["default"]
    if adapter.modules_to_save:
        whole = ", ".join(adapter.modules_to_save)
        raise RunError(f"its adapter contains whole modules ({whole}), which cannot be merged. Merge it with peft.")
    with heads_left_out():
        frame = _frame_like(model, adapter.base_model_name_or_path)
    copy_tokenization(frame, old)
    frame.model.add_adapter(adapter)
    names = {name for name, parameter in frame.model.named_parameters() if parameter.requires_grad}
    trained = {name: weight for name, weight in old.model.state_dict().items() if name in names}
    frame.model.load_state_dict(trained, strict=False)
    merge_in_place(frame.model)
    merged = type(model)(
        modules=[frame, *list(model)[1:]],
        prompts={name: prompt for name, prompt in model.prompts.items() if prompt is not None},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    merged.max_seq_length = model.max_seq_length
    return merged


def _frame_like(model: SentenceTransformer, base: str) -> Any:
    """Load the base of a model with an adapter, with the model's attention."""
    old: Any = model[0]
    if isinstance(model[1], AnchorPooling) or type(getattr(old, "bidirectional", False)) is int:
        return AnchorTransformer(base, bidirectional=old.bidirectional)
    frame: Any = Transformer(base)
    # An adapter trained elsewhere has a plain Transformer without this setting.
    if getattr(old, "bidirectional", False):
        frame.model.config.is_causal = False  # saved in the model's configuration
    return frame


def merge_in_place(model: Any) -> None:
    """Merge the adapter of a transformer into its weights, in their precision, and make all of them trainable.

    The sum is computed in float32 and rounded once.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module.get_base_layer()
            precision = layer.weight.dtype
            layer.weight.data = layer.weight.data.float()  # else peft rounds the adapter before it adds it
            module.merge(safe_merge=True)
            layer.weight.data = layer.weight.data.to(precision)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.requires_grad_(True)
