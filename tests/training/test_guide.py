"""What the judge's vectors leave out of a batch, beside GISTEmbedLoss of sentence-transformers."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

from multigrain.config import ModelSection, PhaseSection
from multigrain.model.build import build_model
from multigrain.model.roles import Role, Vectors
from multigrain.records import GradedTuple, Negative, Pair
from multigrain.training import guide as module
from multigrain.training.batches import to_datasets
from multigrain.training.curriculum import plan
from multigrain.training.guide import Guide, encode_texts
from multigrain.training.in_batch_false_negatives import known_false_negatives
from multigrain.training.loss import GradedLoss
from multigrain.training.prompted_texts import preprocessed
from multigrain.training.train import without_dropout
from tests.conftest import WORDS
from tests.training.test_loss import assert_same, value_and_gradient

ANGLES = {"q0": 0, "p0": 30, "n0": 25, "q1": 90, "p1": 95, "n1": 10, "p9": 120, "n8": 123, "n9": 124}
"""Where each text lies on a circle, in degrees."""


def on_a_circle(texts: Sequence[str], role: Role) -> Vectors:
    assert {text[0] for text in texts} <= ({"q"} if role == "query" else {"p", "n"})
    angles = np.radians([ANGLES[text] for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_by_hand() -> None:
    """cos(q0, .) is 0.866 for p0, 0.906 for n0, -0.087 for p1, 0.985 for n1; cos(q1, .) 0.996 for p1, the highest."""
    texts = [["p0", "n0"], ["p1", "n1"]]
    assert Guide(on_a_circle, 0.0).nearer(["q0", "q1"], texts) == [{(0, 1), (1, 1)}, set()]
    assert Guide(on_a_circle, 0.6).nearer(["q0", "q1"], texts) == [{(0, 1), (1, 1)}, {(0, 0), (0, 1)}]  # above 0.398


def test_a_positive_behind_the_query_is_left_out_as_by_the_host() -> None:
    """g(q,p) = cos 120 = -0.5, less a tenth of its absolute value: -0.55; cos 123 = -0.545, cos 124 = -0.559."""
    assert Guide(on_a_circle, 0.1).nearer(["q0"], [["p9", "n8", "n9"]]) == [{(0, 1)}]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=30)
def test_in_parts_of_the_queries(size: int, negatives: int, seed: int, margin: float) -> None:
    draw = np.random.default_rng(seed).normal(size=(size * (2 + negatives), 5)).astype(np.float32)
    names = [str(i) for i in range(len(draw))]
    queries = names[:size]
    documents = [names[size + i * (1 + negatives) :][: 1 + negatives] for i in range(size)]
    guide = Guide(lambda texts, role: draw[[int(text) for text in texts]], margin)
    expected: list[set[tuple[int, int]]] = []
    for i, query in enumerate(queries):
        own = float(draw[int(query)] @ draw[int(documents[i][0])])
        expected.append(
            {
                (row, column)
                for row in range(size)
                for column in range(1 + negatives)
                if (row, column) != (i, 0)
                and draw[int(query)] @ draw[int(documents[row][column])] > own - margin * abs(own)
            }
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "QUERIES", 2)
        assert guide.nearer(queries, documents) == expected


def encoders(tiny_encoder: Path) -> tuple[SentenceTransformer, SentenceTransformer]:
    """The model that is trained, and a guide with other weights."""
    model = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24)).double().train()
    without_dropout(model)
    guide = build_model(ModelSection(base=str(tiny_encoder), max_tokens=24)).eval()
    torch.manual_seed(5)
    for parameter in guide.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, guide


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_it_is_gistembed_of_the_host(tiny_encoder: Path, margin: float) -> None:
    """A step as training meets it, planned with the guide's vectors, beside a guide that encodes the batch itself."""
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(24)]
    tuples = [
        GradedTuple(str(i), texts[i], texts[8 + i], (Negative(texts[16 + i], 4, 0.5, "mined"),)) for i in range(8)
    ]
    model, guide = encoders(tiny_encoder)
    planned = plan(tuples, [PhaseSection(name="near", grades=[4], steps=1)], 8)

    def encode(texts: Sequence[str], role: Role) -> Vectors:
        return guide.encode(list(texts), normalize_embeddings=True)

    rows = to_datasets(replace(planned, guide=Guide(encode, margin)), {})["phase_0"][:8]
    labels = torch.tensor(rows["label"])
    assert 3 < (labels[..., 3:] >= 0).sum() < 8 * 15  # some are left out, not all
    features = [preprocessed(model, rows[name]) for name in ("query", "positive", "negative_1")]
    stock = GISTEmbedLoss(
        model,
        guide,
        temperature=0.05,
        margin_strategy="relative",
        margin=margin,
        contrast_anchors=False,
        contrast_positives=False,
    )
    assert_same(value_and_gradient(GradedLoss(model), features, labels), value_and_gradient(stock, features), 1e-5)


def test_a_known_answer_stays_one_whatever_the_guide_says() -> None:
    """Known answers are -2 - row, for a loss with several positives; what the guide alone says is the row."""
    tuples = [
        GradedTuple("0", "q0", "p0", (Negative("n0", 4, 0.5, "mined"),)),
        GradedTuple("1", "q1", "p1", (Negative("n1", 4, 0.5, "mined"),)),
    ]
    planned = plan(tuples, [PhaseSection(name="near", grades=[4], steps=1)], 2)
    known = known_false_negatives(tuples, [Pair("2", "q0", "n1")])
    guided = replace(planned, guide=Guide(on_a_circle, 0.0), known=known)
    at = {guided.tuples[place].id: row for row, place in enumerate(guided.places[0])}
    cells = guided.false_at(0, 0)[at["0"]]
    assert [sorted(set(rows) - {-1}) for rows in cells] == [[], sorted([at["0"], -2 - at["1"]])]


def test_vectors_are_looked_after_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text once, in its role, and no more than a portion at once."""
    monkeypatch.setattr(module, "TUPLES", 2)
    tuples = [GradedTuple(str(i), f"q{i}", f"p{i}", (Negative(f"n{i}", 4, 0.5, "mined"),)) for i in range(5)]
    met: list[tuple[Role, int]] = []
    texts: list[str] = []

    def encode(given: Sequence[str], role: Role) -> Vectors:
        met.append((role, len(given)))
        texts.extend(given)
        return np.zeros((len(given), 2), np.float32)

    encode_texts(tuples, encode)
    assert met == [("query", 2), ("document", 4)] * 2 + [("query", 1), ("document", 2)]
    assert sorted(texts) == sorted(f"{kind}{i}" for kind in "qpn" for i in range(5))
