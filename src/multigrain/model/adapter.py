"""Low-rank adapters: put into a model, told apart by their base, and merged into it.

Sources: LoRA (arXiv 2106.09685), QLoRA (arXiv 2305.14314), DoRA (arXiv 2402.09353), by the package peft.
"""

import re
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import PreTrainedModel

from multigrain.config import LoraSection
from multigrain.errors import ConfigError
from multigrain.model.pooling import AnchorPooling, AnchorTransformer, digest_of_base


def add_adapter(transformer: AnchorTransformer, section: LoraSection) -> None:
    """Freeze the model and put a trainable adapter into it.

    Raises:
        ConfigError: the model has not so many layers, or no such targets.
    """
    model = transformer.model
    settings = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha or 2 * section.rank,
        lora_dropout=section.dropout,
        target_modules=section.targets if section.top_layers is None else _in_top_layers(model, section),
        use_dora=section.dora,
    )
    transformer.base_digest = digest_of_base(model)
    try:
        model.add_adapter(settings)
    except ValueError as error:
        raise ConfigError("model.lora", [str(error).strip().splitlines()[0]]) from error


def _in_top_layers(model: PreTrainedModel, section: LoraSection) -> list[str]:
    """The targets by their full names; the first number in a name is that of the layer."""
    layers, top = model.config.num_hidden_layers, section.top_layers or 0
    if top > layers:
        raise ConfigError("model.lora.top_layers", [f"found {top}; the base has {layers} layers"])
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if section.targets != "all-linear":
        names = [name for name in names if name.rpartition(".")[2] in section.targets]
    numbers = {name: re.search(r"\.(\d+)\.", name) for name in names}
    chosen = [name for name, number in numbers.items() if number and int(number[1]) >= layers - top]
    if not chosen:
        raise ConfigError("model.lora.targets", [f"found {section.targets}; the last {top} layers have none of them"])
    return chosen


def has_adapter(model: SentenceTransformer) -> bool:
    """Whether there is something to merge."""
    return bool(getattr(getattr(model[0], "model", None), "_hf_peft_config_loaded", False))


def merge(model: SentenceTransformer) -> SentenceTransformer:
    """The model with its adapter merged into the weights of its base, in their full precision.

    The result depends on no other folder and is as fast as the base. Where nothing of ours is needed any more, the
    host's modules take the place.
    """
    old: Any = model[0]
    adapter = old.model.peft_config["default"]
    frame: Any
    if isinstance(model[1], AnchorPooling):
        frame = AnchorTransformer(adapter.base_model_name_or_path, bidirectional=old.bidirectional)
    else:
        frame = Transformer(adapter.base_model_name_or_path)
        if old.bidirectional:
            frame.model.config.is_causal = False  # kept there, because all weights will be saved
    frame.processor = old.processor
    frame.model.add_adapter(adapter)
    names = {name for name, parameter in frame.model.named_parameters() if parameter.requires_grad}
    frame.model.load_state_dict({n: v for n, v in old.model.state_dict().items() if n in names}, strict=False)
    _merge_in_place(frame.model)
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt is not None}
    merged = type(model)(modules=[frame, *list(model)[1:]], prompts=prompts)
    merged.max_seq_length = model.max_seq_length
    return merged


def _merge_in_place(model: Any) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.requires_grad_(True)
