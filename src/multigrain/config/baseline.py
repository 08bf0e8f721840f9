"""The section `[baseline]`: what the trained model has to be better than."""

from typing import Literal

from multigrain.config.base import Section


class BaselineSection(Section):
    """Settings of the trainings that the run's own is compared with."""

    against: Literal["auto", "stock", "none"] = "auto"
    """`stock` trains twice more, for as long as the run's own training took: with sentence-transformers' own trainer
    and MultipleNegativesRankingLoss, once with in-batch and once with mined negatives. `auto` does so where training
    and corpus are small."""
