"""Load a decoder with its language-model head, which embedding models leave out."""

from pathlib import Path
from typing import Any, NamedTuple

from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, PreTrainedModel

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError, first_line
from multigrain.model.anchor_attention import let_see_ahead
from multigrain.model.build import sees_ahead
from multigrain.model.eos import end_in_eos, is_decoder, persistent_tokenizer
from multigrain.model.load import UNLOADABLE, find_folder, load_base, transformer_source
from multigrain.model.refusals import no_decoder, no_head


class LanguageModel(NamedTuple):
    """A decoder as an embedding model and as a language model, which share their transformer."""

    embedding: SentenceTransformer
    causal: PreTrainedModel


def load_language_model(section: ModelSection) -> LanguageModel:
    """Load a decoder in the precision of its files, with attention in both directions as the settings ask for.

    Raises:
        ConfigError: the base cannot be loaded, is not a decoder, has no language-model head, or its attention cannot
            be changed.
    """
    embedding = load_base(section.base)
    transformer: Any = embedding[0]
    if not is_decoder(transformer.model.config):
        raise no_decoder(section.base)
    transformer.model.to("meta")  # else the weights are in memory twice
    causal = _causal(section.base)
    transformer.model = causal.base_model
    try:
        end_in_eos(transformer.tokenizer)
        transformer.processor = persistent_tokenizer(transformer.tokenizer)
        _see_ahead(transformer.model, section.bidirectional)
    except ValueError as error:
        raise ConfigError("adapt", [f"{section.base} cannot be adapted: {error}"]) from error
    return LanguageModel(embedding, causal)


def require_saved_attention(folder: Path, bidirectional: bool | int) -> None:
    """Check that the tokens of an adapted base attend to later ones when it is loaded again.

    With attention in only some layers, a folder of transformers cannot say so: it is set whenever the base is loaded.

    Raises:
        RunError: they do not.
    """
    model: Any = load_base(str(folder))[0].model
    if bidirectional is not True:
        let_see_ahead(model, bidirectional)
    if not sees_ahead(model):
        fault = "adapt: the tokens of the adapted base do not attend to later ones when it is loaded again"
        raise RunError(f"{fault}. Set model.bidirectional to its number of layers, {model.config.num_hidden_layers}.")


def _causal(base: str) -> PreTrainedModel:
    source, where = transformer_source(find_folder(base, "model.base"))
    try:
        causal, info = AutoModelForCausalLM.from_pretrained(source, **where, output_loading_info=True)
    except UNLOADABLE as error:
        raise ConfigError(
            "model.base", [f"{base} cannot be loaded as a language model: {first_line(error)}"]
        ) from error
    if info["missing_keys"]:  # transformers would initialize it at random
        raise no_head(base)
    return causal


def _see_ahead(model: PreTrainedModel, bidirectional: bool | int) -> None:
    """Let tokens attend to later ones, in all layers or in the last ones.

    Raises:
        ValueError: the attention of the model cannot be changed.
    """
    if bidirectional is True:
        model.config.is_causal = False
    else:
        let_see_ahead(model, bidirectional)
    if not sees_ahead(model):
        raise ValueError(f"the tokens of a {type(model).__name__} cannot be made to see later ones")
