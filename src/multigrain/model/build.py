"""Build the model that is trained, and load the ones that were saved."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import PreTrainedModel

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.jsonl import write_json
from multigrain.model import anchor_attention, pooling
from multigrain.model.adapter import add_adapter, has_adapter
from multigrain.model.gguf import as_folder
from multigrain.model.locate import GGUF, find_base, prompts_to_train
from multigrain.model.plain_text import read_alike, read_plainly
from multigrain.model.pooling import AnchorPooling, AnchorTransformer, prompt_tokens
from multigrain.model.tokens import end_in_eos, is_decoder, see_to_padding
from multigrain.progress import say
from multigrain.vectors import ROLES, prompt_for

HOST_POOLINGS: dict[str, Literal["mean", "cls", "lasttoken", "weightedmean"]] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "weighted": "weightedmean",
}
SHIPPED = tuple(Path(str(module.__file__)) for module in (pooling, anchor_attention))
"""The files that a saved model needs in order to load without multigrain."""


class EmbeddingModel(SentenceTransformer):
    """A SentenceTransformer that loads our modules without a flag, and ships them when it is saved."""

    _module_classes: Mapping[str, type[nn.Module]] = {
        f"{module}.{cls.__name__}": cls
        for cls in (AnchorTransformer, AnchorPooling)
        for module in (cls.__module__, cls.__module__.rpartition(".")[2])
    }

    @classmethod
    def _load_with_module_classes(
        cls, model_name_or_path: str, module_classes: Mapping[str, type[nn.Module]], **kwargs: Any
    ) -> Self:
        """The trainer reloads its checkpoints by this; they name our modules as every saved model does."""
        classes = {**cls._module_classes, **module_classes}
        return super()._load_with_module_classes(model_name_or_path, classes, **kwargs)

    def _load_default_modules(self, *args: Any, **kwargs: Any) -> Any:
        """For a model that was not saved by the host, such as a plain language model."""
        modules, settings = super()._load_default_modules(*args, **kwargs)
        read_plainly(cast(Transformer, next(iter(modules))))
        return modules, settings

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save, with the code of our modules beside `modules.json`, which then names that code."""
        super().save(path, *args, **kwargs)
        modules = json.loads((listing := Path(path, "modules.json")).read_text(encoding="utf-8"))
        if not any(module["type"] in self._module_classes for module in modules):
            return
        for module in modules:
            if module["type"] in self._module_classes:
                module["type"] = ".".join(module["type"].split(".")[-2:])
        for file in SHIPPED:
            shutil.copy(file, path)
        write_json(listing, modules)


UNLOADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What the libraries raise over files that are not as they should be."""


def find_folder(name: str, key: str) -> str:
    """The folder or hub name that transformers can load, of what `find_base` finds.

    Raises:
        RunError, ConfigError: as `find_base` and `as_folder`.
    """
    found = find_base(name, key)
    return str(as_folder(Path(found), key)) if found.endswith(GGUF) else found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load_base(name: str, max_tokens: int | None = None, key: str = "model.base") -> SentenceTransformer:
    """A model as it is, with its own pooling: the judge, or what the trained model is compared with.

    Raises:
        ConfigError: there is no such model; names the setting `key`.
    """
    base = find_folder(name, key)
    try:
        model = EmbeddingModel(base)
    except UNLOADABLE as error:
        raise ConfigError(key, [f"{base} cannot be loaded as a model: {_first_line(error)}"]) from error
    if isinstance(model[0], Transformer):
        see_to_padding(model.tokenizer)
    if absent := _weights_not_in(Path(base), model):
        say(f"  {base}: {len(absent)} weights are not in its files, and begin at random, such as {absent[0]}")
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def load_cross_encoder(name: str, max_tokens: int | None = None, key: str = "grading.judge_model") -> CrossEncoder:
    """A model that reads query and text together and gives their relevance, 0 to 1 (the sigmoid of its one logit).

    Its `predict` sorts the pairs by length itself.

    Raises:
        ConfigError: there is no such model, or it is no cross-encoder with one score; names the setting `key`.
    """
    found = find_base(name, key)
    try:
        model: CrossEncoder = CrossEncoder(
            found, activation_fn=nn.Sigmoid()
        )  # some models are saved to give the bare logit
    except UNLOADABLE as error:
        raise ConfigError(key, [f"{found} cannot be loaded as a cross-encoder: {_first_line(error)}"]) from error
    if fault := _no_cross_encoder(model):
        raise ConfigError(key, [f"{found} {fault}; wanted a cross-encoder with one score, a reranker"])
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def _no_cross_encoder(model: CrossEncoder) -> str | None:
    """What is wrong with it. The host gives a model without a head a random one, and says so in a warning."""
    architectures = getattr(model.config, "architectures", None) or []
    if len(list(model)) == 1 and not any(name.endswith("ForSequenceClassification") for name in architectures):
        return f"has no head that scores pairs ({', '.join(architectures) or 'no architecture'})"
    return f"gives {model.num_labels} scores for a pair" if model.num_labels != 1 else None


def build_model(section: ModelSection) -> SentenceTransformer:
    """The base with the attention, adapter and pooling asked for, and normalised embeddings.

    Every text ends in the EOS token if the base is a decoder.

    Raises:
        RunError: the embedded base, or the package that an adapter needs, is not installed.
        ConfigError: there is no such base, or it cannot have what is asked for; or see `check_prompts`.
    """
    host = load_base(section.base)
    transformer = _transformer(section, host)
    dimension = transformer.get_embedding_dimension()
    pooled: nn.Module
    if section.pooling == "anchor":
        pooled = AnchorPooling(dimension, section.prompt_in_pooling, **section.anchor.model_dump())
    else:
        pooled = Pooling(dimension, HOST_POOLINGS[section.pooling], section.prompt_in_pooling)
    prompts = prompts_to_train(section, host.prompts)
    try:
        model = EmbeddingModel(modules=[transformer, pooled, Normalize()], prompts=prompts)
    except ValueError as error:  # the attention cannot be seen
        raise ConfigError("model.pooling", [str(error)]) from error
    model.max_seq_length = min(section.max_tokens, host.max_seq_length or section.max_tokens)
    check_prompts(model, model.max_seq_length, "model.max_tokens")
    return model


def _transformer(section: ModelSection, host: SentenceTransformer) -> Transformer:
    """The base itself, or in a frame of ours where the host's would forget something."""
    base, transformer = section.base, host[0]
    if not isinstance(transformer, Transformer):
        raise ConfigError("model.base", [f"{base} begins with a {type(transformer).__name__}; wanted a transformer"])
    if lost := [type(module).__name__ for module in list(host)[1:] if not isinstance(module, Pooling | Normalize)]:
        raise ConfigError("model.base", [f"{base} has modules that would be lost: {', '.join(lost)}"])
    if has_adapter(host):
        found = f"{base} is an adapter of another model; merge it first: multigrain merge {base} --out MERGED"
        raise ConfigError("model.base", [found])
    if section.pooling == "anchor" or section.lora:
        transformer = _frame(section, transformer)
    elif section.bidirectional:
        transformer.model.config.is_causal = False
    if section.bidirectional and not sees_ahead(transformer.model):
        found = f"found true; the tokens of a {type(transformer.model).__name__} cannot be made to see those after them"
        raise ConfigError("model.bidirectional", [found])
    if is_decoder(transformer.model.config):
        try:
            end_in_eos(transformer.tokenizer)
        except ValueError as error:
            raise ConfigError("model.base", [f"{base} cannot be trained: {error}"]) from error
    if section.lora:
        add_adapter(transformer, section.lora)
    else:
        transformer.model.float()  # in half precision, small steps of the optimizer would be rounded away
    return transformer


def _frame(section: ModelSection, host: Transformer) -> AnchorTransformer:
    """Our transformer with the base's weights, which reads texts as the host's does."""
    quantize = section.lora.quantize if section.lora else None
    base = find_folder(section.base, "model.base")
    host.model.to("meta")  # its weights would be there twice
    try:
        frame = AnchorTransformer(base, bidirectional=section.bidirectional, quantize=quantize)
    except ImportError as error:
        raise RunError(f'model.lora.quantize: {_first_line(error)} Run: pip install "multigrain[qlora]"') from error
    read_alike(frame, host)
    return frame


def sees_ahead(model: PreTrainedModel) -> bool:
    """Whether the state of the first token changes with the last, whatever the configuration says."""
    tokens = torch.tensor([[5, 6, 7], [5, 6, 8]], device=model.device)
    training = model.training
    with torch.no_grad():
        first = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[:, 0]
    model.train(training)
    return not torch.equal(first[0], first[1])


def check_prompts(model: SentenceTransformer, max_tokens: int, key: str) -> None:
    """Make sure that the prompts leave room for a text, and can be told from it where the pooling leaves them out.

    Raises:
        ConfigError: a prompt fills the length that the setting `key` gives, or runs into the text's first token.
    """
    transformer, pooled = cast(Transformer, model[0]), cast(Pooling, model[1])
    for prompt in filter(None, (prompt_for(role, model.prompts) for role in ROLES)):
        tokens = len(model.tokenizer(prompt)["input_ids"])
        if tokens >= max_tokens:
            found = f"{max_tokens} tokens are read, and the prompt {prompt!r} alone takes {tokens}"
            raise ConfigError(key, [f"{found}; raise it, or shorten the prompt"])
        if not pooled.include_prompt and transformer._get_prompt_length(prompt) != prompt_tokens(transformer, prompt):
            found = f"found false; the tokenizer joins the end of the prompt {prompt!r} with the first word of a text"
            wanted = 'which would be left out too; wanted true, or model.pooling = "anchor"'
            raise ConfigError("model.prompt_in_pooling", [f"{found}, {wanted}"])


def load_model(path: str | Path) -> SentenceTransformer:
    """A model that multigrain saved, or any sentence-transformers model.

    Raises:
        RunError: there is no model in the folder, or it is not whole.
    """
    if not Path(path, "modules.json").is_file():
        raise RunError(f"{path}: no model here (no modules.json). Give the folder of an exported model.")
    _require_base(Path(path))
    try:
        model = EmbeddingModel(str(path))
        absent = _weights_not_in(Path(path), model)
    except UNLOADABLE as error:
        raise RunError(f"{path}: the model in this folder cannot be loaded: {_first_line(error)}") from error
    if absent:
        found = f"{len(absent)} of the model's weights are not in its files, such as {absent[0]}"
        raise RunError(f"{path}: {found}. Fetch or export the model again.")
    return model


def _require_base(folder: Path) -> None:
    file = folder / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else None
    except (ValueError, KeyError, TypeError):  # loading it will say what is wrong
        return
    if base and Path(base).is_absolute() and not Path(base).is_dir():
        found = f"its adapter needs the model {base}, which is not there"
        raise RunError(f"{folder}: {found}. Put it back, or write its new place into {file} (base_model_name_or_path).")


def _weights_not_in(folder: Path, model: SentenceTransformer) -> list[str]:
    """What transformers drew at random, and at most warned of, because the files do not have it.

    Names may have one more or one fewer module in front. A pooler is of no use here, and often not saved.
    """
    saved: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            saved |= {ending for name in opened.keys() for ending in _endings(name)}  # noqa: SIM118 - no mapping
    backbone = getattr(model[0], "model", None)
    if not saved or backbone is None:
        return []
    names = [name for name, _ in backbone.named_parameters() if "pooler" not in name]
    if has_adapter(model):
        names = [name.replace(".default", "") for name in names if "lora_" in name]
        names = [name.removesuffix(".weight") if "magnitude" in name else name for name in names]
    return [name for name in names if not saved.intersection(_endings(name))]


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(min(3, len(parts)))]
