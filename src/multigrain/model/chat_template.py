"""Whether a text is read as it is, or put into a chat template."""

from sentence_transformers.sentence_transformer.modules import Transformer


def read_plainly(transformer: Transformer) -> None:
    """Read texts as they are.

    With a language model that has a chat template, the host puts every text into it: behind a system message, before a
    call to answer.
    """
    _accept(transformer, {kind: how for kind, how in transformer.modality_config.items() if kind != "message"})


def read_alike(transformer: Transformer, other: Transformer) -> None:
    """Read texts by the tokenizer of another module of the same base, and as it does."""
    transformer.processor = other.processor
    _accept(transformer, other.modality_config)


def _accept(transformer: Transformer, modality_config: dict) -> None:  # type: ignore[type-arg] # the host's own type
    transformer.modality_config = modality_config
    transformer.input_formatter.supported_modalities = list(modality_config)
