"""Errors about unsuitable models, in the same words before and after loading. Does not import torch."""

from collections.abc import Sequence

from multigrain.errors import ConfigError


def head_fault(architectures: Sequence[str], scores: int) -> str | None:
    """Describe why a model is not a cross-encoder with one score; return None if it is.

    Args:
        architectures: the architectures in its configuration.
        scores: the number of scores that it gives for a pair.
    """
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        return f"has no head that scores pairs ({', '.join(architectures) or 'no architecture'})"
    return f"gives {scores} scores for a pair" if scores != 1 else None


def no_cross_encoder(name: str, key: str, fault: str) -> ConfigError:
    """Return the error for a model that is not a suitable cross-encoder."""
    return ConfigError(key, [f"{name} {fault}; wanted a cross-encoder (reranker) with one score"])


def adapter_as_base(base: str) -> ConfigError:
    """Return the error for a base that is only an adapter."""
    found = f"{base} is an adapter of another model; merge it first: multigrain merge {base} --out MERGED"
    return ConfigError("model.base", [found])


def no_decoder(base: str) -> ConfigError:
    """Return the error for adapting a base whose tokens see each other already."""
    fault = f"{base} is not a decoder: its tokens attend in both directions already, so there is nothing to adapt"
    return ConfigError("adapt", [f"{fault}; remove the section"])


def no_head(base: str) -> ConfigError:
    """Return the error for adapting a base that was saved without its language-model head."""
    fault = f"{base} has no language-model head, which predicts the masked tokens"
    return ConfigError("adapt", [f"{fault}; start from the language model that it was made from"])


def mask_fault(mask: str, tokens: int) -> str | None:
    """Return a message if a mask is not a single token; None if it is.

    Args:
        mask: the text that replaces masked tokens.
        tokens: number of tokens into which the tokenizer of the base splits it.
    """
    fault = f"found {mask!r}, which the tokenizer of the base splits into {tokens} tokens; wanted one token"
    return fault if tokens != 1 else None


def vectors_too_short(dimensions: Sequence[int], size: int) -> ConfigError:
    """Return the error for truncating vectors to more dimensions than they have."""
    return ConfigError("training.matryoshka", [f"found {list(dimensions)}; the vectors have {size} dimensions"])


def unfit_dense(wanted: int, size: int) -> str:
    """Return a message for a Dense module that reads vectors of another length than one pooling gives."""
    return f"its Dense reads vectors of {wanted} dimensions, from several poolings together; one pooling gives {size}"


def joined_prompt(prompt: str, setting: str) -> str:
    """Return a message for a prompt that shares its last token with the text, where the pooling leaves it out.

    Args:
        prompt: the prompt.
        setting: "model.prompt_in_pooling", or "model.pooling" if the base's own pooling leaves prompts out.
    """
    joined = f"the tokenizer joins the end of the prompt {prompt!r} with the first word of a text"
    found, wanted = "found false", 'true, or model.pooling = "anchor"'
    if setting == "model.pooling":
        found, wanted = 'found "base", which leaves prompts out', '"mean" or "anchor"'
    return f"{found}; {joined}, which would be excluded too; wanted {wanted}"
