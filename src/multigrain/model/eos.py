"""End every text of a decoder in the EOS token.

A decoder learns to collect the meaning of a text in its last token, so every text has to end in the same token.
"""

from tempfile import TemporaryDirectory

from tokenizers.processors import Sequence, TemplateProcessing
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

SHORT, LONG = "a", "a " * 50
MAX_TOKENS = 16
"""Number of tokens to which the long text is truncated."""


def is_decoder(config: PretrainedConfig) -> bool:
    """Return whether an architecture generates text; one that also supports masked tokens is an encoder."""
    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def end_in_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer end every text in the EOS token, even truncated or empty texts, and give it a padding token.

    A tokenizer that ends all texts in another special token keeps it, because decoders trained as embedding models
    often have their own. The change is part of the saved tokenizer file, so every reader of that file behaves alike.

    Raises:
        ValueError: the tokenizer has no EOS token, or cannot be changed.
    """
    ending = last_token(tokenizer)
    if ending is None:
        _append_eos(tokenizer)
        ending = last_token(tokenizer)
    if ending is None:
        raise ValueError("its tokenizer cannot be made to end texts in the EOS token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = ending


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token, if it has a suitable one. Padding is masked, so any token works."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token


def last_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the special token in which short, truncated and empty texts all end; None if there is none."""
    texts = [tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in (SHORT, LONG, "")]
    endings = {ids[-1] if ids and len(ids) <= MAX_TOKENS else None for ids in texts}
    last = endings.pop()
    if endings or last not in tokenizer.all_special_ids:
        return None
    return str(tokenizer.convert_ids_to_tokens(last))


def _append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    eos = tokenizer.eos_token
    if eos is None:
        raise ValueError("its tokenizer has no EOS token, which decoders need at the end of a text")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("its tokenizer is not a fast one, and cannot be made to end texts in the EOS token")
    special = [(eos, tokenizer.eos_token_id)]
    ending = TemplateProcessing(single=["$A", eos], pair=["$A", "$B", eos], special_tokens=special)
    before = backend.post_processor
    backend.post_processor = ending if before is None else Sequence([before, ending])


def persistent_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that still ends texts in its last token when saved and loaded: itself, or a plain copy.

    Some classes (GPT-NeoX, CodeLlama) overwrite the template whenever they are created.

    Raises:
        ValueError: the copy would lose the ending too.
    """
    if _last_token_reloaded(tokenizer) == last_token(tokenizer):
        return tokenizer
    plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_max_length=tokenizer.model_max_length,
        **tokenizer.special_tokens_map,
    )
    if _last_token_reloaded(plain) != last_token(tokenizer):
        raise ValueError("its tokenizer forgets the EOS token at the end of texts when it is loaded again")
    return plain


def _last_token_reloaded(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the last token of texts after the tokenizer is saved and loaded."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return last_token(AutoTokenizer.from_pretrained(folder))
