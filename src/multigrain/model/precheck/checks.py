"""Check a base, an encoder or a cross-encoder by its files. Does not import torch."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from multigrain.config import AdaptSection, ModelSection
from multigrain.errors import ConfigError
from multigrain.model.architectures import is_decoder
from multigrain.model.files import folder_of, is_gguf, revision_of
from multigrain.model.gguf_header import gguf_fault
from multigrain.model.locate import require_model
from multigrain.model.precheck.loading import loading_faults, pooling_fault
from multigrain.model.precheck.training import adaptation_faults, eos_faults, module_faults, section_faults
from multigrain.model.refusals import (
    adapter_as_base,
    head_fault,
    no_cross_encoder,
    no_decoder,
    no_head,
    vectors_too_short,
)
from multigrain.model.saved_settings import (
    SENTENCE_TRANSFORMERS_FILE,
    modules_of,
    settings_of,
    transformer_of,
    vector_length,
)


def precheck_model(section: ModelSection, dimensions: Sequence[int] = ()) -> None:
    """Check by its files that a base supports the settings.

    For GGUF files, this checks only whether they are complete.

    Args:
        section: the model settings.
        dimensions: lengths to which vectors will be truncated (training.matryoshka).

    Raises:
        ConfigError: the base does not exist, cannot be loaded or trained, or does not support a setting.
        RunError: the embedded model is not installed.
    """
    precheck_base(section)
    folder = folder_of(section.base)
    if folder is None:
        return
    inner = transformer_of(folder)
    if faults := section_faults(section, inner):
        raise ConfigError("model", faults)
    size = vector_length(folder, settings_of(inner, "config.json"))
    if size and (too_long := [dimension for dimension in dimensions if dimension > size]):
        raise vectors_too_short(too_long, size)


def precheck_base(section: ModelSection) -> None:
    """Check that a base exists and can be trained, whatever its adapter and prompts are.

    Raises:
        ConfigError: the base does not exist, or cannot be loaded or trained.
        RunError: the embedded model is not installed.
    """
    name = section.base
    precheck_encoder(name, "model.base")
    folder = folder_of(name)
    if folder is None:
        return
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise adapter_as_base(str(folder))
    if faults := [*module_faults(section, folder), *eos_faults(transformer_of(folder))]:
        raise ConfigError("model.base", [f"{name} cannot be trained: {fault}" for fault in faults])


def precheck_decoder(name: str, section: AdaptSection) -> None:
    """Check that a base is a decoder with a language-model head, and can be adapted as the settings ask for.

    Args:
        name: the base.
        section: the settings of the adaptation.

    Raises:
        ConfigError: its files say that it is an encoder, or has no head, or does not support a setting.
    """
    folder = folder_of(name)
    if folder is None:
        return
    inner = transformer_of(folder)
    config = settings_of(inner, "config.json")
    if config.get("model_type") and not is_decoder(str(config["model_type"])):
        raise no_decoder(name)
    saved = config.get("architectures") or []
    # A head that shares its weights with the input is not in the files; a head of its own is, if it was saved. Without
    # a word about it in the settings, they may be shared, as those of GPT-2 are.
    if saved and config.get("tie_word_embeddings") is False and not any("LM" in kind for kind in saved):
        raise no_head(name)
    if faults := [*adaptation_faults(section, inner)]:
        raise ConfigError("adapt", faults)


def precheck_encoder(name: str, key: str) -> None:
    """Check that an embedding model exists, and can be loaded without running code from its folder.

    Raises:
        ConfigError: the model does not exist, or cannot be loaded; names the setting `key`.
        RunError: the embedded model is not installed.
    """
    _precheck_files(name, key, "AutoModel")
    if (folder := folder_of(name)) and (fault := pooling_fault(folder)):
        raise ConfigError(key, [f"{name} cannot be loaded: {fault}"])


def precheck_cross_encoder(name: str, key: str) -> None:
    """Check that a cross-encoder exists, and gives one score per pair.

    Raises:
        ConfigError: the model does not exist, cannot be loaded, or is of another kind; names the setting `key`.
        RunError: the embedded model is not installed.
    """
    _precheck_files(name, key, "AutoModelForSequenceClassification")
    folder = folder_of(name)
    if folder is None or (len(modules_of(folder)) > 1 and _model_type(folder) == "CrossEncoder"):
        return
    config = settings_of(transformer_of(folder), "config.json")
    scores = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if fault := head_fault(config.get("architectures") or [], scores):
        raise no_cross_encoder(name, key, fault)


def _precheck_files(name: str, key: str, loader: str) -> None:
    """Check that a model exists, and that the transformers class `loader` can load its files.

    Raises:
        ConfigError: the model does not exist, or its files are damaged; names the setting `key`.
        RunError: the embedded model is not installed.
    """
    require_model(name, key)
    if is_gguf(name) and (fault := gguf_fault(Path(name))):
        raise ConfigError(key, [f"{name} {fault}"])
    is_all_here = revision_of(name) is None or constants.is_offline_mode()
    if (folder := folder_of(name)) and (faults := [*loading_faults(folder, is_all_here, loader)]):
        raise ConfigError(key, [f"{name} cannot be loaded: {fault}" for fault in faults])


def _model_type(folder: Path) -> str:
    """Return the model type that sentence-transformers saved; old releases and other tools save none."""
    return str(settings_of(folder, SENTENCE_TRANSFORMERS_FILE).get("model_type", "SentenceTransformer"))
