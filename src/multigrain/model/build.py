"""Build the model to train."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn
from transformers import PreTrainedModel

from multigrain.config import ModelSection, as_path
from multigrain.errors import ConfigError, first_line
from multigrain.extras import require_extra
from multigrain.model.adapter import add_adapter, has_adapter
from multigrain.model.anchor_attention import evaluating, let_see_ahead
from multigrain.model.chat_template import copy_tokenization
from multigrain.model.embedding_model import EmbeddingModel
from multigrain.model.eos import end_in_eos, is_decoder, persistent_tokenizer
from multigrain.model.left_out_heads import heads_left_out
from multigrain.model.load import UNLOADABLE, load_base, transformer_source
from multigrain.model.pooling import AnchorPooling, AnchorTransformer, digest_of_base, prompt_tokens
from multigrain.model.precheck import precheck_base
from multigrain.model.prompts import prompts_to_train
from multigrain.model.refusals import adapter_as_base, joined_prompt, unfit_dense
from multigrain.model.roles import ROLES, prompt_for, query_prompt

POOLING_MODES: dict[str, Literal["mean", "cls", "lasttoken", "weightedmean"]] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "weighted": "weightedmean",
}


def build_model(section: ModelSection | str | Path) -> SentenceTransformer:
    """Build a model from a base, with the configured attention, adapter and pooling, and normalized embeddings.

    If the base is a decoder, every text ends in the EOS token. The model keeps the base's prompts unless there is an
    instruction, its modules after the pooling (Dense), and the length to which it truncates vectors, but not its
    similarity function.

    Args:
        section: the model settings, or only a base, with defaults for the other settings.

    Raises:
        RunError: the embedded base, or the package that an adapter needs, is not installed.
        ConfigError: the base does not exist, or does not support a setting; or as `check_prompts`.
    """
    if not isinstance(section, ModelSection):
        as_path(section, "a ModelSection or a base")
        section = ModelSection(base=str(section))
    precheck_base(section)
    loaded = load_base(section.base)
    section = _with_pooling(section, loaded)
    transformer = _transformer(section, loaded)
    pooled = _pooling(section, loaded, transformer.get_embedding_dimension())
    prompts = prompts_to_train(section, loaded.prompts)
    modules = [transformer, pooled, *_kept(section, loaded, pooled.get_embedding_dimension()), Normalize()]
    try:
        model = EmbeddingModel(modules=modules, prompts=prompts, truncate_dim=loaded.truncate_dim)
    except ValueError as error:  # the attention is not accessible
        raise ConfigError("model.pooling", [str(error)]) from error
    model.max_seq_length = min(section.max_tokens, loaded.max_seq_length or section.max_tokens)
    check_prompts(model, model.max_seq_length, "model.max_tokens")
    return model


def _with_pooling(section: ModelSection, loaded: SentenceTransformer) -> ModelSection:
    """Return the settings with the anchor pooling of a base that has it, if the base's own pooling is wanted."""
    own = next((module for module in loaded if isinstance(module, AnchorPooling)), None)
    if section.pooling != "base" or own is None:
        return section
    settings = {name: value for name, value in own.get_config_dict().items() if hasattr(section.anchor, name)}
    return section.model_copy(update={"pooling": "anchor", "anchor": section.anchor.model_copy(update=settings)})


def _pooling(section: ModelSection, loaded: SentenceTransformer, dimension: int) -> Pooling:
    """Return the pooling module for token vectors of this dimension."""
    if section.pooling == "anchor":
        return AnchorPooling(dimension, section.prompt_in_pooling, **section.anchor.model_dump())
    mode: Any = POOLING_MODES.get(section.pooling, "mean")
    with_prompt = section.prompt_in_pooling
    own = next((module for module in loaded if isinstance(module, Pooling)), None)
    if section.pooling == "base" and own is not None:
        mode, with_prompt = own.pooling_mode, own.include_prompt and with_prompt
    pooling: Pooling = Pooling(dimension, mode, with_prompt)
    return pooling


def _kept(section: ModelSection, loaded: SentenceTransformer, dimension: int) -> list[nn.Module]:
    """Return the base's modules after its pooling, without a final Normalize; frozen if there is an adapter."""
    pooling = next((place for place, module in enumerate(loaded) if isinstance(module, Pooling)), len(loaded))
    kept = list(loaded)[pooling + 1 :]
    while kept and isinstance(kept[-1], Normalize):
        kept.pop()
    wanted = next((module.in_features for module in kept if isinstance(module, Dense)), dimension)
    if wanted != dimension:
        raise ConfigError("model.base", [f"{section.base} cannot be trained: {unfit_dense(wanted, dimension)}"])
    for module in kept:
        module.float().requires_grad_(section.lora is None)
    return kept


def _transformer(section: ModelSection, loaded: SentenceTransformer) -> Transformer:
    """Return the base's transformer, or an AnchorTransformer if the settings need one."""
    base, transformer = section.base, cast(Transformer, loaded[0])
    if has_adapter(loaded):
        raise adapter_as_base(base)
    if section.pooling == "anchor" or section.lora or type(section.bidirectional) is int:
        transformer = _frame(section, transformer)
    elif section.bidirectional:
        transformer.model.config.is_causal = False
    if section.bidirectional and not sees_ahead(transformer.model):
        found = f"found true; the tokens of a {type(transformer.model).__name__} cannot be made to see later ones"
        raise ConfigError("model.bidirectional", [found])
    if is_decoder(transformer.model.config):
        try:
            end_in_eos(transformer.tokenizer)
            transformer.processor = persistent_tokenizer(transformer.tokenizer)
        except ValueError as error:
            raise ConfigError("model.base", [f"{base} cannot be trained: {error}"]) from error
    if section.lora:
        cast(AnchorTransformer, transformer).base_digest = digest_of_base(transformer.model)
        add_adapter(transformer.model, section.lora)
    else:
        transformer.model.float()  # half precision would round small optimizer steps away
    return transformer


def _frame(section: ModelSection, loaded: Transformer) -> AnchorTransformer:
    """Load the base's weights into an AnchorTransformer that reads texts as the loaded transformer does."""
    quantize = section.lora.quantize if section.lora else None
    if quantize:
        require_extra("qlora")
    base, where = transformer_source(loaded.model.name_or_path)
    loaded.model.to("meta")  # else the weights are in memory twice
    try:
        with heads_left_out():
            frame = AnchorTransformer(
                base,
                bidirectional=section.bidirectional is True,
                quantize=quantize,
                model_kwargs={**where},
                config_kwargs={**where},
                processor_kwargs={**where},
            )
    except UNLOADABLE as error:
        raise ConfigError("model.base", [f"{base} cannot be loaded as a model: {first_line(error)}"]) from error
    if type(section.bidirectional) is int:
        try:
            let_see_ahead(frame.model, section.bidirectional)
        except ValueError as error:
            raise ConfigError("model.bidirectional", [str(error)]) from error
        frame.bidirectional = section.bidirectional
    copy_tokenization(frame, loaded)
    return frame


def sees_ahead(model: PreTrainedModel) -> bool:
    """Return whether the state of the first token depends on the last token, whatever the configuration says."""
    tokens = torch.tensor([[5, 6, 7], [5, 6, 8]], device=model.device)
    with torch.no_grad(), evaluating(model):
        first = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[:, 0]
    return not torch.equal(first[0], first[1])


def check_prompts(model: SentenceTransformer, max_tokens: int, key: str) -> None:
    """Check that prompts leave room for a text and, if the pooling excludes them, share no token with it.

    Raises:
        ConfigError: a prompt fills the length given by the setting `key`, or shares a token with the text.
    """
    for prompt in filter(None, (prompt_for(role, model.prompts) for role in ROLES)):
        _check_prompt(model, prompt, max_tokens, key)


def check_instructions(model: SentenceTransformer, instructions: Iterable[str], max_tokens: int | None) -> None:
    """Check the prompts of queries with these instructions, as `check_prompts` does.

    Args:
        model: the model to train.
        instructions: different instructions.
        max_tokens: the setting `training.max_tokens`.

    Raises:
        ConfigError: see `check_prompts`.
    """
    full_length = model.max_seq_length or max_tokens or 0
    key = "training.max_tokens" if max_tokens and max_tokens < full_length else "model.max_tokens"
    for instruction in instructions:
        _check_prompt(model, query_prompt(model.prompts, instruction), min(max_tokens or full_length, full_length), key)


def _check_prompt(model: SentenceTransformer, prompt: str, max_tokens: int, key: str) -> None:
    transformer, pooled = cast(Transformer, model[0]), cast(Pooling, model[1])
    tokens = len(model.tokenizer(prompt)["input_ids"])
    if tokens >= max_tokens:
        found = f"found {max_tokens}, but the prompt {prompt!r} alone takes {tokens}"
        raise ConfigError(key, [f"{found}; raise it, or shorten the prompt"])
    if not pooled.include_prompt and transformer._get_prompt_length(prompt) != prompt_tokens(transformer, prompt):
        setting = "model.prompt_in_pooling"
        raise ConfigError(setting, [joined_prompt(prompt, setting)])
