r"""The training objectives: functions from the similarities in a batch to one loss value per query.

Notation: queries q_1 .. q_R of this process, M documents of all processes (positives and their tuples' negatives),
similarities s(q, d) = cos(q, d) / T, and a weight w(d) for each document.

    infonce   -log( exp s(q,p) / (exp s(q,p) + sum over d not left out of w(d) exp s(q,d)) )

              over the in-batch and the own negatives (van den Oord et al. 2018, arXiv 1807.03748). With all weights 1
              and nothing left out, it equals MultipleNegativesRankingLoss of sentence-transformers.

    listwise  the mean of infonce and, with weight w(n), for each own negative n of a grade above the lowest,
              -log( exp s(q,n) / (exp s(q,n) + sum over own negatives d of lower grade of w(d) exp s(q,d)) )

              which orders positive > grade 4 > ... > grade 1. Apart from ties, it is the likelihood of that order under
              the Plackett-Luce model (ListMLE, Xia et al. 2008), in the contrastive form of RINCE (Hoffmann et al.
              2022, arXiv 2201.11736). With negatives of one grade, it equals infonce.

    distill   KL( softmax(t / T_t) || softmax(s) ) + 0.1 infonce

              with the divergence over the positive and the own negatives, each weighted by w in both distributions.
              t are the teacher's scores between 0 and 1, and T_t is the teacher's temperature. The infonce term has its
              own temperature, and leaves out own negatives that the teacher scores high (CADET, Tamber et al. 2025,
              arXiv 2505.19274).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

LEFT_OUT = float("-inf")
"""The similarity assigned to a document that is left out."""


@dataclass(frozen=True)
class Similarities:
    """The similarities that an objective compares, for R queries of this process with k own negatives each."""

    to_all: Tensor
    """(R, M) similarities to all documents plus log w; `LEFT_OUT` where a document does not count. With
    `partition_mode="joint"`, further columns hold the other directions of the same softmax."""
    to_positive: Tensor
    """(R,) similarity to the positive; with several positives, their mean."""
    to_own: Tensor
    """(R, 1 + k) similarities to the own documents (positive and own negatives), without weights."""
    grades: Tensor
    """(R, 1 + k) grades of the own documents; 0 where there is none."""
    scores: Tensor
    """(R, 1 + k) scores of the own documents, by the judge or the teacher."""
    weights: Tensor
    """(R, 1 + k) weights of the own documents."""
    temperature: float
    own: Tensor
    """(R, 1 + k) columns of the own documents in `to_all`."""
    to_queries: Tensor | None = None
    """(R, N) similarities of the positive to all queries, if this direction has its own softmax."""


@dataclass(frozen=True)
class Distillation:
    """The settings of `distill`; the defaults are from CADET.

    Attributes:
        teacher_temperature: T_t, which divides the teacher's scores.
        infonce_weight: the weight of the `infonce` term.
        infonce_temperature: the temperature of the `infonce` term, in place of T.
        false_negative_above: share of the query's highest score. An own negative that scores above it counts as a
            false negative, and is left out of `infonce`.
        lowest: the teacher's score that maps to 0, as do lower scores.
        highest: the teacher's score that maps to 1, as do higher scores.
    """

    teacher_temperature: float = 0.3
    infonce_weight: float = 0.1
    infonce_temperature: float = 0.01
    false_negative_above: float = 0.6
    lowest: float = 0.0
    highest: float = 1.0


def infonce(batch: Similarities) -> Tensor:
    """Separate the positive from all documents of the batch: InfoNCE, a cross entropy over similarities.

    `-log( exp s(q,p) / (exp s(q,p) + sum over d of w(d) exp s(q,d)) )`; see the module docstring.

    With several positives, the loss is the mean over the positives, and each sum contains all of them (SupCon's
    L_out). If each direction has its own softmax, the loss is the mean of both directions.

    Args:
        batch: the similarities. Uses `to_all` and `to_positive`, and if present `to_queries` and `to_own`.

    Returns:
        (R,) the loss of each query.

    Inputs:
        +------------------------------------------------+------------------------------+
        | Texts                                          | Labels                       |
        +================================================+==============================+
        | (query, positive) pairs                        | none                         |
        | (query, positive, negative_1 .. negative_k)    | none, or grade, score and    |
        |                                                | weight of each document      |
        +------------------------------------------------+------------------------------+

    Relations:
        - With all weights 1 and nothing left out, it equals MultipleNegativesRankingLoss with scale 1 / T.
        - `listwise` adds terms that rank the own negatives; `distill` includes it with weight 0.1.

    Recommendations:
        - Use large batches: each other tuple adds a negative.
        - With negatives of one grade in a step, prefer it to `listwise`, which gives the same value.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5]])
        >>> own = torch.tensor([[0, 1]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, own, cosines, torch.ones(1, 2), 1.0, own)
        >>> round(float(infonce(row)), 4)  # two equally similar documents: log 2
        0.6931

    References:
        van den Oord et al. 2018, *Representation learning with contrastive predictive coding*, arXiv 1807.03748;
        Khosla et al. 2020, *Supervised contrastive learning* (SupCon), arXiv 2004.11362.
    """
    query_to_doc = torch.logsumexp(batch.to_all, dim=1) - batch.to_positive
    if batch.to_queries is None:
        return query_to_doc
    doc_to_query = torch.logsumexp(batch.to_queries, dim=1) - batch.to_own[:, 0]
    return (query_to_doc + doc_to_query) / 2


def listwise(batch: Similarities) -> Tensor:
    """Rank the documents by grade: the positive first, then each negative above the negatives of lower grades.

    The mean of `infonce` and, with weight w(n), for each own negative n above the lowest grade,
    `-log( exp s(q,n) / (exp s(q,n) + sum over own d of lower grade of w(d) exp s(q,d)) )`; see the module docstring.

    Args:
        batch: the similarities. Does not use `scores`.

    Returns:
        (R,) the loss of each query.

    Inputs:
        +------------------------------------------------+------------------------------+
        | Texts                                          | Labels                       |
        +================================================+==============================+
        | (query, positive, negative_1 .. negative_k)    | grade and weight of each     |
        |                                                | document; score: nan         |
        +------------------------------------------------+------------------------------+

    Relations:
        - With negatives of one grade, it equals `infonce`.
        - It follows only the order of the grades; `distill` follows a teacher's scores.

    Recommendations:
        - Use phases with several grades in one step.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5, 0.5]])
        >>> grades = torch.tensor([[5, 4, 1]])
        >>> own = torch.tensor([[0, 1, 2]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, grades, cosines, torch.ones(1, 3), 1.0, own)
        >>> round(float(listwise(row)), 4)  # (log 3 + log 2) / 2
        0.8959

    References:
        Xia et al. 2008, *Listwise approach to learning to rank* (ListMLE); Hoffmann et al. 2022, *Ranking info noise
        contrastive estimation* (RINCE), arXiv 2201.11736.
    """
    own = batch.to_own[:, 1:]
    grades = batch.grades[:, 1:]
    present = (batch.weights[:, 1:] > 0) & (grades > 0)
    # lower[r, a, d]: d is an own negative of a lower grade than a
    lower = (grades[:, None, :] < grades[:, :, None]) & present[:, None, :]
    ranks = present & lower.any(dim=2)
    weighted = own + batch.weights[:, 1:].clamp_min(torch.finfo(own.dtype).tiny).log()
    below = weighted[:, None, :].masked_fill(~lower, LEFT_OUT)
    terms = torch.logsumexp(torch.cat([own[:, :, None], below], dim=2), dim=2) - own
    share = torch.where(ranks, batch.weights[:, 1:], 0.0)
    total = infonce(batch) + (share * torch.where(ranks, terms, 0.0)).sum(dim=1)
    return total / (1 + share.sum(dim=1))


def distill(batch: Similarities, settings: Distillation = Distillation()) -> Tensor:
    """Match a teacher's scores of each query's own documents, and separate the positive from the rest of the batch.

    `KL( softmax(t / T_t) || softmax(s) ) + 0.1 infonce` with t = (score - lowest) / (highest - lowest), clipped to
    [0, 1]. The first term is over the positive and the own negatives. The second has its own temperature, and leaves
    out own negatives with t above 0.6 of the query's highest t, because these may answer the query.

    Args:
        batch: the similarities. Does not use `grades`.
        settings: the constants of the formula.

    Returns:
        (R,) the loss of each query.

    Raises:
        ValueError: a document with a positive weight has no score.

    Inputs:
        +------------------------------------------------+------------------------------+
        | Texts                                          | Labels                       |
        +================================================+==============================+
        | (query, positive, negative_1 .. negative_k)    | score and weight of each     |
        |                                                | document                     |
        +------------------------------------------------+------------------------------+

    Relations:
        - If the model agrees with the teacher, each at its temperature, only the second term remains.
        - With `infonce_weight` 0 and equal temperatures, it equals DistillKLDivLoss without the factor T^2.

    Recommendations:
        - Use a teacher that knows more than the model: a cross-encoder, a larger model, or a sum with BM25.
        - Give each query about 20 of its nearest documents.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5]])
        >>> own = torch.tensor([[0, 1]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, own, cosines, torch.ones(1, 2), 1.0, own)
        >>> round(float(distill(row)), 4)  # the teacher agrees, and infonce leaves out the high-scored negative
        0.0

    References:
        Tamber et al. 2025, *Conventional contrastive learning often falls short: improving dense retrieval with
        cross-encoder listwise distillation and synthetic data* (CADET), arXiv 2505.19274.
    """
    absent = batch.weights <= 0
    if batch.scores[~absent].isnan().any():
        raise ValueError("labels: a document with a weight has no score; distill needs the teacher's score of each")
    scores = ((batch.scores - settings.lowest) / (settings.highest - settings.lowest)).clamp(0.0, 1.0)
    scores = scores.masked_fill(absent, 0.0)
    share = batch.weights.log()
    wanted = softmax((scores / settings.teacher_temperature + share).masked_fill(absent, LEFT_OUT), dim=1)
    student = log_softmax((batch.to_own + share).masked_fill(absent, LEFT_OUT), dim=1).masked_fill(absent, 0.0)
    divergence = kl_div(student, wanted, reduction="none").masked_fill(absent, 0.0).sum(dim=1)
    return divergence + settings.infonce_weight * infonce(_sharpened(batch, scores, settings))


def _sharpened(batch: Similarities, scores: Tensor, settings: Distillation) -> Similarities:
    """Return the similarities at the temperature of `infonce`, without the own negatives that score high.

    The terms added to the similarities are rescaled too: a weight w becomes w^(T / temperature of infonce), and the
    strength of hardness weighting is multiplied by that ratio.
    """
    near = scores > settings.false_negative_above * scores.max(dim=1, keepdim=True).values
    near[:, 0] = False  # the positive stays
    sharper = batch.temperature / settings.infonce_temperature
    of_own = batch.to_all.gather(1, batch.own).masked_fill(near, LEFT_OUT)
    return replace(
        batch,
        to_all=batch.to_all.scatter(1, batch.own, of_own) * sharper,
        to_positive=batch.to_positive * sharper,
        to_own=batch.to_own * sharper,
        to_queries=None if batch.to_queries is None else batch.to_queries * sharper,
    )


OBJECTIVES = {"infonce": infonce, "listwise": listwise, "distill": distill}
"""The objectives, by their names in `training.loss`."""
