"""Switch off chat templates, so that models read texts unchanged."""

from sentence_transformers.sentence_transformer.modules import Transformer


def skip_chat_template(transformer: Transformer) -> None:
    """Make a transformer read texts without its chat template.

    If a language model has a chat template, sentence-transformers puts every text into it, after a system message and
    before a generation prompt.
    """
    _accept(transformer, {kind: how for kind, how in transformer.modality_config.items() if kind != "message"})


def copy_tokenization(transformer: Transformer, other: Transformer) -> None:
    """Make a transformer read texts as another one of the same base does, with the same tokenizer."""
    transformer.processor = other.processor
    _accept(transformer, other.modality_config)


def _accept(transformer: Transformer, modality_config: dict) -> None:  # type: ignore[type-arg] # as in sentence-transformers
    transformer.modality_config = modality_config
    transformer.input_formatter.supported_modalities = list(modality_config)
