"""The section `[baseline]`: further models to compare the trained model with."""

from typing import Literal

from multigrain.config.base import Section


class BaselineSection(Section):
    """Settings of the models that the trained model is compared with, besides its base."""

    against: Literal["auto", "stock", "none"] = "auto"
    """Baselines to train. `stock` trains two more models with the stock sentence-transformers trainer and
    MultipleNegativesRankingLoss, one with in-batch and one with mined negatives, each for as long as the run's own
    training took. `auto` does the same if the training took at most 30 minutes of computing, the corpus has at most
    100,000 documents, there are at most 100,000 training pairs, and no adapter is trained. `none` trains none."""
