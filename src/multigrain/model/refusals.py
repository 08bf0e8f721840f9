"""Refusals of a model, in the same words before it is loaded and when it is. No torch."""

from collections.abc import Sequence

from multigrain.errors import ConfigError


def head_fault(architectures: Sequence[str], scores: int) -> str | None:
    """Say what is wrong with a model that is to score pairs; None if nothing is.

    Args:
        architectures: as its configuration names them.
        scores: how many it gives for a pair.
    """
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        return f"has no head that scores pairs ({', '.join(architectures) or 'no architecture'})"
    return f"gives {scores} scores for a pair" if scores != 1 else None


def no_cross_encoder(name: str, key: str, fault: str) -> ConfigError:
    """Refuse a model that is to score pairs, and cannot."""
    return ConfigError(key, [f"{name} {fault}; wanted a cross-encoder with one score, a reranker"])


def adapter_as_base(base: str) -> ConfigError:
    """Refuse a base that is an adapter, no model by itself."""
    found = f"{base} is an adapter of another model; merge it first: multigrain merge {base} --out MERGED"
    return ConfigError("model.base", [found])


def vectors_too_short(dimensions: Sequence[int], size: int) -> ConfigError:
    """Refuse to cut vectors to lengths that are above theirs."""
    return ConfigError("training.matryoshka", [f"found {list(dimensions)}; the vectors have {size} numbers"])


def unfit_dense(wanted: int, size: int) -> str:
    """Say that a Dense module reads vectors of another length than one pooling gives."""
    return f"its Dense reads vectors of {wanted} numbers, as several poolings together give; one gives {size}"
