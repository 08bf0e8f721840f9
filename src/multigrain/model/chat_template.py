"""Chat templates: texts are read as they are, not put into one."""

from sentence_transformers.sentence_transformer.modules import Transformer


def skip_chat_template(transformer: Transformer) -> None:
    """Have a transformer read texts as they are.

    With a language model that has a chat template, sentence-transformers puts every text into it: behind a system
    message, before a call to answer.
    """
    _accept(transformer, {kind: how for kind, how in transformer.modality_config.items() if kind != "message"})


def copy_tokenization(transformer: Transformer, other: Transformer) -> None:
    """Have a transformer read texts by the tokenizer of another one of the same base, and as that does."""
    transformer.processor = other.processor
    _accept(transformer, other.modality_config)


def _accept(transformer: Transformer, modality_config: dict) -> None:  # type: ignore[type-arg] # the type of sentence-transformers
    transformer.modality_config = modality_config
    transformer.input_formatter.supported_modalities = list(modality_config)
