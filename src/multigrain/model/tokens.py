"""Decoders learn to put what they know of a text into its last token: every text has to end in the same one."""

from tokenizers.processors import Sequence, TemplateProcessing
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

SHORT, LONG = "a", "a " * 50


def is_decoder(config: PretrainedConfig) -> bool:
    """Whether the architecture was made to write: one that can fill gaps too is an encoder."""
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def end_in_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have every text end in the EOS token, also when it is cut or empty, and see that there is a token to pad with.

    It is written into the tokenizer's own file, so that whatever reads that file does the same.

    Raises:
        ValueError: the tokenizer has no EOS token, or cannot be changed.
    """
    eos = tokenizer.eos_token
    if eos is None:
        raise ValueError("its tokenizer has no EOS token, which decoders need at the end of a text")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = eos
    if ends_in_eos(tokenizer):
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("its tokenizer is not a fast one, and cannot be made to end texts in the EOS token")
    special = [(eos, tokenizer.eos_token_id)]
    ending = TemplateProcessing(single=["$A", eos], pair=["$A", "$B", eos], special_tokens=special)
    before = backend.post_processor
    backend.post_processor = ending if before is None else Sequence([before, ending])
    if not ends_in_eos(tokenizer):
        raise ValueError("its tokenizer cannot be made to end texts in the EOS token")


def ends_in_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a short text, one that is cut, and an empty one end in the EOS token."""
    texts = [tokenizer(text, truncation=True, max_length=16)["input_ids"] for text in (SHORT, LONG, "")]
    return all(ids[-1:] == [tokenizer.eos_token_id] and len(ids) <= 16 for ids in texts)
