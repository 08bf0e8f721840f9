"""Load embedding models saved by multigrain or others, cross-encoders, and bases that are not embedding models yet."""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn

from multigrain.config import model_folder_of
from multigrain.errors import ConfigError, RunError, first_line
from multigrain.model.embedding_model import EmbeddingModel
from multigrain.model.eos import ensure_pad_token
from multigrain.model.files import folder_of, is_gguf, revision_of
from multigrain.model.gguf import cache_folder, convert_gguf
from multigrain.model.left_out_heads import heads_left_out
from multigrain.model.loaded_integrity import integrity_fault, position_limit, randomly_initialized
from multigrain.model.locate import find_base
from multigrain.model.pooling import load_magnitudes
from multigrain.model.refusals import head_fault, no_cross_encoder
from multigrain.model.saved_settings import modules_of, transformer_of

UNLOADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
"""Errors that the libraries raise for unsuitable or damaged files."""


def find_folder(name: str, key: str) -> str:
    """Return a folder or hub name that transformers can load; convert a GGUF file to a folder first.

    Raises:
        RunError, ConfigError: as `find_base` and `convert_gguf`.
    """
    found = find_base(name, key)
    return str(convert_gguf(Path(found), key)) if is_gguf(found) else found


def transformer_source(name: str) -> tuple[str, dict[str, str]]:
    """Return where transformers finds the transformer of a model, which older models have in a folder of its own.

    Args:
        name: a folder or hub name, as `find_folder` returns it.

    Returns:
        A folder or hub name, and more arguments for `from_pretrained`.
    """
    within = next((module["path"] for module in modules_of(folder_of(name) or Path(name))), "")
    if revision := revision_of(name):
        return name, {"revision": revision, "subfolder": within}
    return str(Path(name, within)) if within else name, {}


def load_base(name: str, max_tokens: int | None = None, key: str = "model.base") -> SentenceTransformer:
    """Load a model unchanged, with its own pooling, as a judge or for comparison with the trained model.

    Raises:
        ConfigError: the model does not exist, or cannot be loaded; names the setting `key`.
    """
    base = find_folder(name, key)
    try:
        with heads_left_out():
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
        found = f"{len(absent)} of its weights are missing from its files, such as {absent[0]}, and would be random"
        raise ConfigError(key, [f"{base} cannot be loaded: {found}; check the architecture in config.json"])


def _read_at_most(model: SentenceTransformer | CrossEncoder, max_tokens: int | None) -> None:
    """Truncate texts to this length, or to fewer tokens if the model's own length or positions are fewer.

    A model of static word vectors (Model2Vec) reads whole texts.
    """
    if not isinstance(model[0], Transformer):
        return
    own, positions = model.max_seq_length, position_limit(model)
    lengths = [length for length in (max_tokens, own, positions) if length is not None]
    if lengths and min(lengths) != own:
        model.max_seq_length = min(lengths)


def load_cross_encoder(name: str, max_tokens: int | None = None, key: str = "grading.judge_model") -> CrossEncoder:
    """Load a cross-encoder, which reads query and text together and returns their relevance, from 0 to 1.

    The relevance is the sigmoid of its single logit. Its `predict` sorts the pairs by length.

    Raises:
        ConfigError: the model does not exist, or is not a cross-encoder with one score; names the setting `key`.
    """
    found = find_base(name, key)
    try:
        # Some models are saved with no activation, and return the logit.
        model: CrossEncoder = CrossEncoder(found, activation_fn=nn.Sigmoid(), revision=revision_of(found))
    except UNLOADABLE as error:
        raise ConfigError(key, [f"{found} cannot be loaded as a cross-encoder: {first_line(error)}"]) from error
    if fault := _no_cross_encoder(model):
        raise no_cross_encoder(found, key, fault)
    _require_weights(found, key, model)
    _read_at_most(model, max_tokens)
    return model


def _no_cross_encoder(model: CrossEncoder) -> str | None:
    """Describe why a model is not a cross-encoder; sentence-transformers only warns, and adds a random head."""
    if len(list(model)) > 1:
        return None if model.num_labels == 1 else f"gives {model.num_labels} scores for a pair"
    return head_fault(getattr(model.config, "architectures", None) or [], model.num_labels)


def load_model(path: str | Path) -> SentenceTransformer:
    """Load a model saved by multigrain, or any sentence-transformers model.

    Args:
        path: the model's folder, or the folder of a run that exported one.

    Raises:
        RunError: the folder has no model, or its files are incomplete.
    """
    folder = model_folder_of(path)
    if not (folder / "modules.json").is_file():
        raise RunError(f"{path}: no model here (no modules.json). Give the folder of an exported model.")
    _require_base(folder)
    try:
        with heads_left_out():
            model = EmbeddingModel(str(folder))
        if type(model[0]) is Transformer:  # an adapter trained elsewhere; an AnchorTransformer loads its own
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
    except (ValueError, KeyError, TypeError):  # loading reports what is wrong
        return
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).is_dir():
        found = f"its adapter needs the model {base}, which does not exist"
        advice = "Restore it, or write its new path into"
        if Path(base).parent == cache_folder():
            advice = "Create it again with: multigrain explain FILE.gguf x. Or write its new path into"
        raise RunError(f"{folder}: {found}. {advice} {file} (base_model_name_or_path).")
