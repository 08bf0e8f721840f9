"""Load models: those that multigrain saved, those that others saved, and bases that are none yet."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn

from multigrain.config import model_folder_of
from multigrain.errors import ConfigError, RunError, first_line
from multigrain.files import write_json
from multigrain.model import anchor_attention, anchor_scores, attention_tiles, pooling
from multigrain.model.chat_template import skip_chat_template
from multigrain.model.eos import ensure_pad_token
from multigrain.model.files import folder_of, is_gguf, revision_of
from multigrain.model.gguf import as_folder, cache
from multigrain.model.integrity import integrity_fault, position_limit, randomly_initialized
from multigrain.model.legacy import write_legacy_settings
from multigrain.model.locate import find_base
from multigrain.model.pooling import AnchorPooling, AnchorTransformer, load_magnitudes
from multigrain.model.refusals import head_fault, no_cross_encoder
from multigrain.model.saved_settings import transformer_of

SHIPPED = tuple(Path(str(module.__file__)) for module in (pooling, anchor_attention, anchor_scores, attention_tiles))
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
        """Load with our classes among the known ones: the trainer reloads its checkpoints by this method."""
        classes = {**cls._module_classes, **module_classes}
        return super()._load_with_module_classes(model_name_or_path, classes, **kwargs)

    def _load_default_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Load a model that sentence-transformers did not save, such as a language model, without a chat template."""
        modules, settings = super()._load_default_modules(*args, **kwargs)
        skip_chat_template(cast(Transformer, next(iter(modules))))
        return modules, settings

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save, with the code of our modules beside `modules.json`, which then names that code.

        A model without modules of ours is saved as older releases write it.
        """
        super().save(path, *args, **kwargs)
        modules = json.loads((listing := Path(path, "modules.json")).read_text(encoding="utf-8"))
        if not any(module["type"] in self._module_classes for module in modules):
            write_legacy_settings(Path(path), self.max_seq_length)
            return
        for module in modules:
            if module["type"] in self._module_classes:
                module["type"] = ".".join(module["type"].split(".")[-2:])
        for file in SHIPPED:
            shutil.copy(file, path)
        write_json(listing, modules)

    def save_pretrained(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save, and let others read the weights who may read the rest."""
        super().save_pretrained(path, *args, **kwargs)
        mode = Path(path, "modules.json").stat().st_mode
        for file in Path(path).glob("*.safetensors"):
            file.chmod(mode)


UNLOADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
"""Errors that the libraries raise over files that are not as they should be."""


def find_folder(name: str, key: str) -> str:
    """Return the folder or hub name that transformers can load; a GGUF file is converted to a folder first.

    Raises:
        RunError, ConfigError: as `find_base` and `as_folder`.
    """
    found = find_base(name, key)
    return str(as_folder(Path(found), key)) if is_gguf(found) else found


def load_base(name: str, max_tokens: int | None = None, key: str = "model.base") -> SentenceTransformer:
    """Load a model as it is, with its own pooling: the judge, or what the trained model is compared with.

    Raises:
        ConfigError: there is no such model; names the setting `key`.
    """
    base = find_folder(name, key)
    try:
        model = EmbeddingModel(base, revision=revision_of(base))
    except UNLOADABLE as error:
        raise ConfigError(key, [f"{base} cannot be loaded as a model: {first_line(error)}"]) from error
    if isinstance(model[0], Transformer):
        ensure_pad_token(model.tokenizer)
    _require_weights(base, key, model)
    _read_at_most(model, max_tokens)
    return model


def _require_weights(base: str, key: str, model: nn.Sequential) -> None:
    folder = folder_of(base)
    if folder and (absent := randomly_initialized(transformer_of(folder), model)):
        found = f"{len(absent)} of its weights are not in its files, such as {absent[0]}, and would begin at random"
        raise ConfigError(key, [f"{base} cannot be loaded: {found}; is it of the architecture that config.json names?"])


def _read_at_most(model: SentenceTransformer | CrossEncoder, max_tokens: int | None) -> None:
    """Cut texts at this length, or earlier where the model was made for fewer tokens, or has no positions for more."""
    own, positions = model.max_seq_length, position_limit(model)
    lengths = [length for length in (max_tokens, own, positions) if length is not None]
    if lengths and min(lengths) != own:
        model.max_seq_length = min(lengths)


def load_cross_encoder(name: str, max_tokens: int | None = None, key: str = "grading.judge_model") -> CrossEncoder:
    """Load a model that reads query and text together and gives their relevance, 0 to 1 (the sigmoid of its one logit).

    Its `predict` sorts the pairs by length itself.

    Raises:
        ConfigError: there is no such model, or it is no cross-encoder with one score; names the setting `key`.
    """
    found = find_base(name, key)
    try:
        # Some models are saved to give the bare logit.
        model: CrossEncoder = CrossEncoder(found, activation_fn=nn.Sigmoid(), revision=revision_of(found))
    except UNLOADABLE as error:
        raise ConfigError(key, [f"{found} cannot be loaded as a cross-encoder: {first_line(error)}"]) from error
    if fault := _no_cross_encoder(model):
        raise no_cross_encoder(found, key, fault)
    _require_weights(found, key, model)
    _read_at_most(model, max_tokens)
    return model


def _no_cross_encoder(model: CrossEncoder) -> str | None:
    """Say why a model is no cross-encoder: sentence-transformers gives one without a head a random one, and warns."""
    if len(list(model)) > 1:
        return None if model.num_labels == 1 else f"gives {model.num_labels} scores for a pair"
    return head_fault(getattr(model.config, "architectures", None) or [], model.num_labels)


def load_model(path: str | Path) -> SentenceTransformer:
    """Load a model that multigrain saved, or any sentence-transformers model.

    Args:
        path: the model's folder, or the folder of a run that exported one.

    Raises:
        RunError: there is no model in the folder, or its files are incomplete.
    """
    folder = model_folder_of(path)
    if not (folder / "modules.json").is_file():
        raise RunError(f"{path}: no model here (no modules.json). Give the folder of an exported model.")
    _require_base(folder)
    try:
        model = EmbeddingModel(str(folder))
        if type(model[0]) is Transformer:  # an adapter that others trained; an AnchorTransformer has done it itself
            load_magnitudes(model[0].model, str(folder))
        fault = integrity_fault(folder, model)
    except UNLOADABLE as error:
        found = f"the model in this folder cannot be loaded: {first_line(error).rstrip('.')}"
        raise RunError(f"{path}: {found}. Fetch or export the model again.") from error
    if fault:
        raise RunError(f"{path}: {fault}. Fetch or export the model again.")
    if isinstance(model[0], Transformer):
        ensure_pad_token(model.tokenizer)
    return model


def _require_base(folder: Path) -> None:
    file = folder / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else None
    except (ValueError, KeyError, TypeError):  # loading it will say what is wrong
        return
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).is_dir():
        found = f"its adapter needs the model {base}, which is not there"
        advice = "Put it back, or write its new place into"
        if Path(base).parent == cache():
            advice = "Make it again by: multigrain explain FILE.gguf x. Or write its new place into"
        raise RunError(f"{folder}: {found}. {advice} {file} (base_model_name_or_path).")
