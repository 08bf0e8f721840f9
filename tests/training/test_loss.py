"""The loss beside that of sentence-transformers, by hand, and in all the ways in which a batch can be split."""

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    DistillKLDivLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from multigrain.config import ContrastSection, ModelSection
from multigrain.model.build import build_model
from multigrain.training.loss import Encoding, GradedLoss
from multigrain.training.objectives import Distillation
from multigrain.training.train import without_dropout
from tests.conftest import WORDS
from tests.model.decoder import tiny_decoder

NAN = float("nan")
SPLITS = [Encoding(10**6, 10**12), Encoding(10**6, 0), Encoding(12, 10**12), Encoding(12, 40_000), Encoding(1, 0)]
"""Whole and kept, whole and twice, in parts: all kept, some kept, none kept."""
OTHERS = ("doc_to_query", "query_to_query", "doc_to_doc")
HARDNESS = ("in_batch_negatives", "hard_negatives", "all_negatives")
BOTH: dict[str, Any] = {"directions": ["query_to_doc", "doc_to_query"], "partition_mode": "per_direction"}
ALL: dict[str, Any] = {"directions": ["query_to_doc", *OTHERS]}


@pytest.fixture(params=["encoder", "decoder"])
def model(request: pytest.FixtureRequest, tiny_encoder: Path) -> SentenceTransformer:
    """In double precision, so that equality means equality."""
    if request.param == "encoder":
        built = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24))
    else:
        base = tiny_decoder("both", "left")
        built = build_model(ModelSection(base=str(base), max_tokens=24, bidirectional=True, pooling="mean"))
    without_dropout(built)
    return built.double().train()


def columns(model: SentenceTransformer, count: int = 4, rows: int = 6) -> list[dict[str, Any]]:
    draw = random.Random(3)
    texts = [[" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(rows)] for _ in range(count)]
    return [model.preprocess(column) for column in texts]


def value_and_gradient(loss: nn.Module, features: list[dict[str, Any]], labels: Any = None) -> tuple[Tensor, Tensor]:
    model = loss.model
    assert isinstance(model, nn.Module)
    model.zero_grad()
    result = loss([dict(column) for column in features], labels)
    result.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return result.detach(), torch.cat(gradients)


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], tolerance: float = 1e-6) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("encoding", SPLITS)
def test_it_is_the_hosts_loss_however_a_batch_is_split(model: SentenceTransformer, encoding: Encoding) -> None:
    features = columns(model)
    mine = value_and_gradient(GradedLoss(model, encoding=encoding), features)
    assert_same(mine, value_and_gradient(MultipleNegativesRankingLoss(model), features))
    assert_same(mine, value_and_gradient(CachedMultipleNegativesRankingLoss(model, mini_batch_size=4), features))


def contrasts() -> list[dict[str, Any]]:
    """All that the host's loss takes: each set of directions, partition mode and hardness mode."""
    sets = [["query_to_doc", *more] for count in range(4) for more in combinations(OTHERS, count)]
    ways: list[dict[str, Any]] = [{"directions": directions} for directions in sets]
    ways += [{"directions": sets[index], "partition_mode": "per_direction"} for index in (0, 1)]
    weighted = [{"hardness_mode": mode, "hardness_strength": 5.0} for mode in HARDNESS]
    return [way | more for way in ways for more in ({}, *weighted)]


def named(way: dict[str, Any]) -> str:
    return " ".join([*way["directions"], *(str(way[key]) for key in ("partition_mode", "hardness_mode") if key in way)])


@pytest.mark.parametrize("way", contrasts(), ids=named)
@pytest.mark.parametrize("model", ["encoder"], indirect=True)
def test_it_is_the_hosts_loss_in_all_directions(
    model: SentenceTransformer, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of rows, and with some texts encoded twice."""
    monkeypatch.setattr("multigrain.training.loss.ROWS", 4)
    features = columns(model)
    mine = GradedLoss(model, contrast=ContrastSection(**way), encoding=Encoding(12, 40_000))
    stock = MultipleNegativesRankingLoss(model, **way)
    assert_same(value_and_gradient(mine, features), value_and_gradient(stock, features))


@pytest.mark.parametrize("encoding", SPLITS[:4])
def test_distillation_is_the_hosts_but_for_its_factor(model: SentenceTransformer, encoding: Encoding) -> None:
    """The host multiplies by the square of the student's temperature."""
    features = columns(model, count=7)
    scores = torch.rand(6, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.stack([torch.full_like(scores, 4), scores, torch.ones_like(scores)], dim=2)
    settings = Distillation(teacher_temperature=0.3, infonce_weight=0.0)
    mine = GradedLoss(model, 0.05, "distill", distillation=settings, encoding=encoding)
    stock = DistillKLDivLoss(model, pairwise_cos_sim, student_temperature=0.05, teacher_temperature=0.3)
    value, gradient = value_and_gradient(stock, features, scores)
    assert_same(value_and_gradient(mine, features, labels), (value / 0.05**2, gradient / 0.05**2), 1e-5)


@pytest.mark.parametrize("encoding", SPLITS[:4])
def test_matryoshka_wraps_it_as_it_wraps_the_hosts(model: SentenceTransformer, encoding: Encoding) -> None:
    features = columns(model)
    size = model.get_embedding_dimension() or 0
    stock = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, **ALL), [size, size // 4])
    graded = GradedLoss(model, contrast=ContrastSection(**ALL), encoding=encoding)
    mine = MatryoshkaLoss(model, graded, [size, size // 4])
    assert_same(value_and_gradient(mine, features, labels_of(features)), value_and_gradient(stock, features))
    vectors = [model({**column})["sentence_embedding"] for column in features]
    margin = (cosine_similarity(vectors[0], vectors[1]) - cosine_similarity(vectors[0], vectors[2])).mean()
    assert abs(graded.measures.margins[1] - float(margin)) < 1e-5  # of the whole vectors, not of cut ones


def labels_of(
    features: list[dict[str, Any]], grades: tuple[int, ...] = (5, 1, 2), **cells: tuple[float, ...]
) -> Tensor:
    """All rows alike, but for `cells`: r0c1=(grade, score, weight)."""
    rows = len(features[0]["input_ids"])
    labels = torch.tensor([[[grade, grade / 5, 1.0] for grade in grades]] * rows)
    for name, cell in cells.items():
        row, column = map(int, name[1:].split("c"))
        labels[row, column] = torch.tensor(cell)
    return labels


def logits(model: SentenceTransformer, features: list[dict[str, Any]], temperature: float = 0.05) -> Tensor:
    vectors = [model({**column})["sentence_embedding"] for column in features]
    return cosine_similarity(vectors[0][:, None], torch.cat(vectors[1:])[None], dim=2) / temperature


def masked(scores: Tensor, left_out: list[tuple[int, int]]) -> Tensor:
    scores = scores.clone()
    for row, column in left_out:
        scores[row, column] = float("-inf")
    return scores


def by_hand(scores: Tensor, left_out: list[tuple[int, int]]) -> Tensor:
    return torch.nn.functional.cross_entropy(masked(scores, left_out), torch.arange(len(scores)))


def test_documents_without_weight_count_for_nobody(model: SentenceTransformer) -> None:
    features = columns(model)
    labels = labels_of(features, r2c1=(0, NAN, 0.0), r4c2=(2, 0.5, 0.0))
    loss = GradedLoss(model)(features, labels)
    left_out = [(row, column) for row in range(6) for column in (6 + 2, 12 + 4)]
    torch.testing.assert_close(loss.detach(), by_hand(logits(model, features), left_out).detach())


def test_weights_are_of_the_grade_whoevers_negative_it_is(model: SentenceTransformer) -> None:
    features = columns(model, 3)
    labels = labels_of(features, (5, 1))
    labels[:, 1, 2] = 0.25
    scores = logits(model, features)
    scores[:, 6:] += torch.tensor(0.25).log()
    torch.testing.assert_close(GradedLoss(model)(features, labels).detach(), by_hand(scores, []).detach())


def test_no_false_negatives_in_the_batch(model: SentenceTransformer) -> None:
    """Query 1 is query 0 again with another positive; the negative of row 3 is the positive of row 2; the negative of
    row 4 is the query of row 5."""
    draw = random.Random(5)
    queries, positives, negatives = (
        [" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(6)] for _ in range(3)
    )
    queries[1], negatives[3], negatives[4] = queries[0], positives[2], queries[5]
    features = [model.preprocess(column) for column in (queries, positives, negatives)]
    left_out = [(0, 1), (1, 0), (2, 6 + 3), (5, 6 + 4)]
    loss = GradedLoss(model)(features, labels_of(features, (5, 2)))
    torch.testing.assert_close(loss.detach(), by_hand(logits(model, features), left_out).detach())


@pytest.mark.parametrize("way", [{}, BOTH, ALL], ids=["query_to_doc", "both", "all"])
def test_what_the_labels_call_false_does_not_count(model: SentenceTransformer, way: dict[str, Any]) -> None:
    """For query 0 the positives of rows 2 and 3 and the negative of row 5, for query 4 the positive of row 0.

    So rows 0 and 2, 0 and 3, 0 and 4 are no negatives of each other, whichever of their texts are compared.
    """
    features = columns(model, 3)
    told = torch.full((6, 2, 2), -1.0)
    told[0, 0], told[0, 1, 0], told[4, 0, 1] = torch.tensor([-2.0 - 2, 3.0]), 5, -2 - 0
    labels = torch.cat([labels_of(features, (5, 2)), told], dim=2)
    scores = logits(model, features)
    forth, back = [(0, 2), (0, 3), (0, 6 + 5), (4, 0)], [(2, 0), (3, 0), (0, 4)]
    expected = by_hand(scores, forth)
    if way == BOTH:
        expected = (expected + by_hand(scores[:, :6].T, back)) / 2
    if way == ALL:
        queries, positives = logits(model, features[:1] * 2), logits(model, [features[1], *features[1:]])
        selves = [(row, row) for row in range(6)]
        near = [pair for row in (2, 3, 4) for pair in ((0, row), (row, 0))]
        own = [(row, 6 + row) for row in range(6)]
        blocks = [
            masked(scores, forth),
            masked(scores[:, :6].T, back),
            masked(queries, selves + near),
            masked(positives, selves + near + own + [(0, 6 + 5)]),
        ]
        expected = torch.nn.functional.cross_entropy(torch.cat(blocks, dim=1), torch.arange(6))
    loss = GradedLoss(model, contrast=ContrastSection(**way))
    torch.testing.assert_close(loss(features, labels).detach(), expected.detach())


@pytest.mark.parametrize("objective", ["infonce", "listwise", "distill"])
def test_an_own_negative_that_is_the_positive_counts_in_no_objective(
    model: SentenceTransformer, objective: str
) -> None:
    """As two texts do that are cut to the same tokens."""
    features = [model.preprocess([text]) for text in ("a cat sat", "home is here", "a river", "home is here")]
    labels = labels_of(features, (5, 1, 4))
    found = GradedLoss(model, objective=objective)(features, labels)
    labels[0, 2] = torch.tensor([0, NAN, 0.0])
    filler = GradedLoss(model, objective=objective)(features, labels)
    torch.testing.assert_close(found.detach(), filler.detach())


def test_a_positive_finds_all_its_queries(model: SentenceTransformer) -> None:
    texts = [["a cat sat", "the dog ran", "a bird"], ["home is here", "home is here", "the river"]]
    features = [model.preprocess(column) for column in texts]
    scores = logits(model, features)
    forth = by_hand(scores, [(0, 1), (1, 0)])
    back = by_hand(scores.T, [(0, 1), (1, 0)])
    loss = GradedLoss(model, contrast=ContrastSection(**BOTH))(features, None)
    torch.testing.assert_close(loss.detach(), ((forth + back) / 2).detach())


@pytest.mark.parametrize("way", [{}, BOTH, ALL, {**ALL, "positives": "all"}])
def test_where_nothing_is_a_negative_nothing_is_to_be_learned(model: SentenceTransformer, way: dict[str, Any]) -> None:
    """Two queries of one positive: no direction has a candidate, and sums of nothing must not make a gradient nan."""
    features = [model.preprocess(column) for column in (["a cat sat", "the dog ran"], ["home is here"] * 2)]
    value, gradient = value_and_gradient(GradedLoss(model, contrast=ContrastSection(**way)), features)
    expected = torch.tensor(2.0).log() if len(way.get("directions", "")) == 4 else torch.tensor(0.0)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.float(), expected)


def several_positives(model: SentenceTransformer) -> tuple[list[dict[str, Any]], Tensor]:
    """Rows 0 and 1 have one query. For it labels name the negatives of rows 2 and 3 too, which are one text."""
    texts = [["a cat sat", "a cat sat", "the dog ran", "a bird"]]
    texts += [["home is here", "the river", "a green tree", "home is here"]]
    texts += [["the old stone", "a river", "the cat", "the cat"]]
    features = [model.preprocess(column) for column in texts]
    told = torch.full((4, 2, 2), -1.0)
    told[:2, 1] = torch.tensor([-2.0 - 2, -2 - 3])
    return features, torch.cat([labels_of(features, (5, 2)), told], dim=2)


DOUBLES = [(0, 3), (0, 7), (1, 3), (1, 7), (3, 0)]


def soft_targets(positives: list[int]) -> Tensor:
    """Of query 0, and of query 1, which is the same; the others have their own positives alone."""
    targets = torch.zeros(4, 8, dtype=torch.float64)
    targets[:2, positives] = 1 / len(positives)
    targets[2, 2] = targets[3, 3] = 1
    return targets


def by_hand_with_several(scores: Tensor, left_out: list[tuple[int, int]], targets: Tensor) -> Tensor:
    """A cross entropy with soft labels: torch's own is no number where a score is -inf, though its label is 0."""
    return (torch.logsumexp(masked(scores, left_out), dim=1) - (targets * scores).sum(dim=1)).mean()


def test_several_positives_by_hand(model: SentenceTransformer) -> None:
    """The mean of the losses of each positive, with all of them among the candidates: SupCon's L_out, of soft labels.

    Query 0 has the columns 0, 1 and 6; column 3 is column 0 again, which is the positive of query 3 too, and column 7
    is column 6.
    """
    features, labels = several_positives(model)
    scores = logits(model, features)
    expected = by_hand_with_several(scores, DOUBLES, soft_targets([0, 1, 6]))
    loss = GradedLoss(model, contrast=ContrastSection(positives="all"))
    torch.testing.assert_close(loss(features, labels).detach(), expected.detach())
    left_out = by_hand(scores, [*DOUBLES, (0, 1), (0, 6), (1, 0), (1, 6)])
    torch.testing.assert_close(GradedLoss(model)(features, labels).detach(), left_out.detach())


@pytest.mark.parametrize(("without_weight", "positives"), [([2], [0, 1, 7]), ([2, 3], [0, 1])])
def test_a_positive_is_taken_from_where_it_has_a_weight(
    model: SentenceTransformer, without_weight: list[int], positives: list[int]
) -> None:
    features, labels = several_positives(model)
    labels[:, 1, 2] = 0.5  # what is a positive of query 0 counts there in full
    labels[without_weight, 1, 2] = 0.0
    targets = soft_targets(positives)
    scores = logits(model, features)
    scores = torch.where(targets > 0, scores, scores + labels[..., 2].T.reshape(-1).log().clamp_min(-1e9))
    expected = by_hand_with_several(scores, [(0, 3), (1, 3), (3, 0)], targets)
    loss = GradedLoss(model, contrast=ContrastSection(positives="all"))
    torch.testing.assert_close(loss(features, labels).detach(), expected.detach())


def test_neither_a_positive_nor_what_is_left_out_is_made_harder(model: SentenceTransformer) -> None:
    features, labels = several_positives(model)
    contrast = ContrastSection(positives="all", hardness_mode="all_negatives", hardness_strength=3.0)
    found = GradedLoss(model, contrast=contrast)(features, labels)
    scores, targets = logits(model, features), soft_targets([0, 1, 6])
    scores = scores + (targets == 0) * 3.0 * scores * 0.05
    expected = by_hand_with_several(scores, DOUBLES, targets)
    torch.testing.assert_close(found.detach(), expected.detach())


@pytest.mark.parametrize("objective", ["infonce", "listwise", "distill"])
def test_what_stands_twice_is_encoded_once_and_changes_nothing(model: SentenceTransformer, objective: str) -> None:
    draw = random.Random(6)
    texts = [[" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(4)] for _ in range(4)]
    texts[3] = [texts[2][1], texts[2][0], texts[2][3], texts[2][2]]  # the negatives of other rows
    features = [model.preprocess(column) for column in texts]
    labels = labels_of(features)
    once = GradedLoss(model, objective=objective, encoding=Encoding(20, 30_000))
    found = value_and_gradient(once, features, labels)
    assert (once.measures.texts, once.measures.encoded) == (16, 12)
    whole = GradedLoss(model, objective=objective, encoding=SPLITS[0])
    assert_same(found, value_and_gradient(whole, features, labels))


def test_large_batches_go_in_parts_of_rows(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    features = columns(model)
    told = torch.tensor([[[1.0, -1], [-1, -2 - 5]], [[-1, -1], [4, -1]]] * 3)
    labels = torch.cat([labels_of(features)[:, :2], told], dim=2)
    loss = GradedLoss(model, contrast=ContrastSection(**ALL, positives="all"))
    whole = value_and_gradient(loss, features[:3], labels)
    monkeypatch.setattr("multigrain.training.loss.ROWS", 4)
    assert_same(value_and_gradient(loss, features[:3], labels), whole)


def test_an_evaluation_needs_no_gradient(model: SentenceTransformer) -> None:
    features = columns(model)
    with torch.no_grad():
        value = GradedLoss(model)(features, None)
    assert not value.requires_grad
    torch.testing.assert_close(value, by_hand(logits(model, features), []).detach())


def test_dropout_is_the_same_in_both_passes(tiny_encoder: Path) -> None:
    """GradCache must replay what it drew, or the gradient belongs to other vectors."""
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24)).double().train()
    features = columns(model)
    torch.manual_seed(1)
    kept = value_and_gradient(GradedLoss(model, encoding=Encoding(12, 10**12)), features)
    torch.manual_seed(1)
    assert_same(value_and_gradient(GradedLoss(model, encoding=Encoding(12, 0)), features), kept)


def test_bf16_is_near(tiny_encoder: Path) -> None:
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24)).train()
    without_dropout(model)
    features = columns(model)
    exact = value_and_gradient(GradedLoss(model), features)
    half = value_and_gradient(GradedLoss(model, encoding=Encoding(30, 20_000, bf16=True)), features)
    assert half[0].dtype == torch.float32
    assert 0 < abs(float(half[0] - exact[0])) < 0.05
    assert torch.nn.functional.cosine_similarity(half[1], exact[1], dim=0) > 0.99


def test_half_precision_is_the_same_kept_or_not(tiny_encoder: Path) -> None:
    """Graphs that are kept share one copy of the weights; its gradient must come from all of them."""
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24)).train()
    without_dropout(model)
    features = columns(model)
    kept, twice = (
        value_and_gradient(GradedLoss(model, encoding=Encoding(30, room, bf16=True)), features) for room in (10**12, 0)
    )
    assert_same(kept, twice, 1e-2)  # the order of sums in bfloat16


def test_labels_of_another_shape_are_refused(model: SentenceTransformer) -> None:
    features = columns(model)
    with pytest.raises(ValueError, match=r"labels: found the shape \(6, 2, 3\); wanted \(6, 3, 3\): grade, judge"):
        GradedLoss(model)(features, labels_of(features, (5, 1)))
    with pytest.raises(ValueError, match="found 1 column; wanted query, positive"):
        GradedLoss(model)(features[:1], None)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"temperature": 0}, "found 0; wanted a number above 0"), ({"objective": "triplet"}, "distill")]
)
def test_wrong_arguments_are_refused(model: SentenceTransformer, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GradedLoss(model, **wrong)
