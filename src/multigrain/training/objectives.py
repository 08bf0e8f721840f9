r"""What is asked of the embeddings of a batch: functions of similarities, one value for each query.

For the queries q_1 .. q_R of this process, and the M documents of all processes (the positives, and the negatives that
came with them), with similarities s(q, d) = cos(q, d) / T and a weight w(d) of each document:

    infonce   -log( exp s(q,p) / (exp s(q,p) + sum over d not left out of w(d) exp s(q,d)) )

              with the in-batch and the own negatives (van den Oord et al. 2018, arXiv 1807.03748); with all weights 1
              and nothing left out it is the host's MultipleNegativesRankingLoss.

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


@dataclass(frozen=True)
class Similarities:
    """What the objectives look at, for R queries of this process, of which each has k own negatives."""

    to_all: Tensor
    """(R, M) similarities to all documents plus log w, `LEFT_OUT` where a document does not count."""
    to_positive: Tensor
    """(R,)"""
    to_own: Tensor
    """(R, 1 + k) similarities to the positive and the own negatives, without weights."""
    grades: Tensor
    """(R, 1 + k) grades of these; 0 where there is none."""
    scores: Tensor
    """(R, 1 + k) judge scores of these."""
    weights: Tensor
    """(R, 1 + k) weights of these."""
    temperature: float


def infonce(batch: Similarities) -> Tensor:
    """(R,) see the module."""
    return torch.logsumexp(batch.to_all, dim=1) - batch.to_positive


def listwise(batch: Similarities) -> Tensor:
    """(R,) see the module."""
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
    """(R,) see the module."""
    absent = batch.weights <= 0
    if batch.scores[~absent].isnan().any():
        raise ValueError("distill wants the judge's score of every document that has a weight, in the labels")
    share = batch.weights.log()
    teacher = softmax((batch.scores / batch.temperature + share).masked_fill(absent, LEFT_OUT), dim=1)
    student = log_softmax((batch.to_own + share).masked_fill(absent, LEFT_OUT), dim=1).masked_fill(absent, 0.0)
    return infonce(batch) + kl_div(student, teacher, reduction="none").masked_fill(absent, 0.0).sum(dim=1)


OBJECTIVES = {"infonce": infonce, "listwise": listwise, "distill": distill}
