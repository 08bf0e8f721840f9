"""The section `[adapt]`: make a decoder fit for attention in both directions, before it is trained on pairs."""

from typing import Literal

from pydantic import Field

from multigrain.config.base import Precision, Section, Share

BLANK = "_"
"""Mask of a tokenizer without a mask token, as in LLM2Vec."""


class AdaptSection(Section):
    """Settings of the adaptation. It needs `model.bidirectional`, and a base that is a decoder."""

    method: Literal["mntp"] = "mntp"
    """Objective: masked next token prediction (LLM2Vec, arXiv 2404.05961). Some tokens are masked. Each is predicted
    from the state of the token before it, which in a decoder predicts the next token."""
    tokens: int = Field(1_000_000, ge=1)
    """Number of tokens to read from the corpus and the training queries. If the texts have fewer, they are read
    again."""
    max_tokens: int = Field(128, ge=8)
    """Maximum length of a window, in tokens. Longer texts are cut into windows. The base needs as many positions."""
    batch_tokens: int = Field(1024, ge=8)
    """Maximum number of tokens in a step, including padding."""
    masked: Share = 0.2
    """Share of the tokens that are masked."""
    mask_token: str | None = Field(None, min_length=1)
    """Text that replaces a masked token; the base must read it as one token. By default the mask token of the base, or
    `_` if it has none."""
    learning_rate: float = Field(3e-4, gt=0)
    """Highest learning rate. It rises over the first tenth of the steps, then falls linearly to 0."""
    rank: int = Field(16, ge=1)
    """Rank of the low-rank adapter (LoRA) on all linear layers. It is merged into the weights afterwards."""
    precision: Precision = "fp32"
    """Precision of matrix products; see `training.precision`."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Maximum time between two checkpoints, in minutes."""


def described_adaptation(section: AdaptSection) -> str:
    """Describe the adaptation in words."""
    tokens = f"{section.tokens:,} tokens, {section.masked:.0%} of them masked"
    return f"adapted by masked next token prediction on {tokens}, through LoRA of rank {section.rank}"
