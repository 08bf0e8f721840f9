r"""The training objectives: functions of the similarities in a batch, one loss value for each query.

For the queries q_1 .. q_R of this process, and the M documents of all processes (the positives, and the negatives that
came with them), with similarities s(q, d) = cos(q, d) / T and a weight w(d) of each document:

    infonce   -log( exp s(q,p) / (exp s(q,p) + sum over d not left out of w(d) exp s(q,d)) )

              with the in-batch and the own negatives (van den Oord et al. 2018, arXiv 1807.03748); with all weights 1
              and nothing left out it is sentence-transformers' MultipleNegativesRankingLoss.

    listwise  the mean of infonce and, with weight w(n), for each own negative n of a grade above the lowest,
              -log( exp s(q,n) / (exp s(q,n) + sum over own negatives d of lower grade of w(d) exp s(q,d)) )

              so that positive > grade 4 > ... > grade 1: the likelihood of that order under Plackett and Luce, ties
              apart (ListMLE, Xia et al. 2008), in the contrastive form of RINCE (Hoffmann et al. 2022, arXiv
              2201.11736). With negatives of one grade it is infonce.

    distill   infonce + KL( softmax(judge scores / T) || softmax(s) ) over the positive and the own negatives, whose
              parts in both distributions are multiplied by w (as E5, arXiv 2212.03533; the judge is that of the
              grading).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

LEFT_OUT = float("-inf")
"""The similarity of a document that does not count."""


@dataclass(frozen=True)
class Similarities:
    """The similarities that an objective compares, for R queries of this process with k own negatives each."""

    to_all: Tensor
    """(R, M) similarities to all documents plus log w, `LEFT_OUT` where a document does not count. What stands in the
    same softmax besides (`partition_mode="joint"`) has further columns."""
    to_positive: Tensor
    """(R,) similarity to the positive; with several, their mean."""
    to_own: Tensor
    """(R, 1 + k) similarities to the positive and the own negatives, without weights."""
    grades: Tensor
    """(R, 1 + k) grades of these; 0 where there is none."""
    scores: Tensor
    """(R, 1 + k) judge scores of these."""
    weights: Tensor
    """(R, 1 + k) weights of these."""
    temperature: float
    to_queries: Tensor | None = None
    """(R, N) similarities of the positive to all queries, where these have a softmax of their own."""


def infonce(batch: Similarities) -> Tensor:
    """Tell the positive from all documents of the batch: InfoNCE, a cross entropy over similarities.

    `-log( exp s(q,p) / (exp s(q,p) + sum over d of w(d) exp s(q,d)) )`, see the module.

    With several positives it is the mean over them of the same, and each sum holds all of them (SupCon's L_out). Where
    each direction has a softmax of its own, it is the mean of both directions.

    Args:
        batch: the similarities. `to_all` and `to_positive` are used, `to_queries` and `to_own` if there are any.

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
        - With all weights 1 and nothing left out it is MultipleNegativesRankingLoss with scale 1 / T.
        - `listwise` and `distill` are this plus what they say about the own negatives.

    Recommendations:
        - Use large batches: each other tuple is one more negative.
        - With negatives of one grade in a step, it is all there is: `listwise` is the same.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, torch.tensor([[5, 1]]), cosines, torch.ones(1, 2), 1.0)
        >>> round(float(infonce(row)), 4)  # two documents as near: log 2
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
    """Rank the documents by grade: the positive before all, then each negative before those of lower grades.

    The mean of `infonce` and, with weight w(n), for each own negative n above the lowest grade,
    `-log( exp s(q,n) / (exp s(q,n) + sum over own d of lower grade of w(d) exp s(q,d)) )`, see the module.

    Args:
        batch: the similarities. `scores` are not used.

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
        - With negatives of one grade it is `infonce`.
        - `distill` follows the judge's scores, this the order of the grades alone.

    Recommendations:
        - Use phases that bring several grades in one step.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5, 0.5]])
        >>> grades = torch.tensor([[5, 4, 1]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, grades, cosines, torch.ones(1, 3), 1.0)
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


def distill(batch: Similarities) -> Tensor:
    """Add to `infonce` the divergence of the model's similarities from the judge's scores.

    `infonce + KL( softmax(judge scores / T) || softmax(s) )` over the positive and the own negatives, see the module.

    Args:
        batch: the similarities. `grades` are not used.

    Returns:
        (R,) the loss of each query.

    Raises:
        ValueError: a document with a weight has no judge score.

    Inputs:
        +------------------------------------------------+------------------------------+
        | Texts                                          | Labels                       |
        +================================================+==============================+
        | (query, positive, negative_1 .. negative_k)    | score and weight of each     |
        |                                                | document                     |
        +------------------------------------------------+------------------------------+

    Relations:
        - Where the model agrees with the judge it is `infonce`.
        - DistillKLDivLoss has the second part alone.

    Recommendations:
        - The judge must see more than the model does (a cross-encoder, a language model), on a scale like cosines.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.5]])
        >>> row = Similarities(cosines, cosines[:, 0], cosines, torch.tensor([[5, 1]]), cosines, torch.ones(1, 2), 1.0)
        >>> round(float(distill(row)), 4)  # the judge agrees: infonce alone
        0.6931

    References:
        Wang et al. 2022, *Text embeddings by weakly-supervised contrastive pre-training* (E5), arXiv 2212.03533.
    """
    absent = batch.weights <= 0
    if batch.scores[~absent].isnan().any():
        raise ValueError("distill wants the judge's score of every document that has a weight, in the labels")
    share = batch.weights.log()
    teacher = softmax((batch.scores / batch.temperature + share).masked_fill(absent, LEFT_OUT), dim=1)
    student = log_softmax((batch.to_own + share).masked_fill(absent, LEFT_OUT), dim=1).masked_fill(absent, 0.0)
    return infonce(batch) + kl_div(student, teacher, reduction="none").masked_fill(absent, 0.0).sum(dim=1)


OBJECTIVES = {"infonce": infonce, "listwise": listwise, "distill": distill}
"""The objectives by the name that `training.loss` has for them."""
