import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from multigrain.errors import ConfigError
from multigrain.grading.judges import CrossEncoderJudge, EmbeddingJudge
from multigrain.model.load import load_cross_encoder
from multigrain.model.roles import Role, Vectors


class Encoder:
    """Unit vectors from a seed that the text gives; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Role, list[str]]] = []

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        self.calls.append((role, list(texts)))
        vectors = np.stack([np.random.default_rng(list(text.encode())).normal(size=384) for text in texts])
        unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return unit


def test_cosines_in_the_order_of_the_pairs_each_text_embedded_once() -> None:
    encoder = Encoder()
    judge = EmbeddingJudge(encoder)
    pairs = [("q", "a"), ("q", "b"), ("r", "a"), ("q", "q"), ("q", "a")]
    found = judge.scores(pairs)
    assert encoder.calls == [("query", ["q", "r"]), ("document", ["a", "b", "q"])]
    vectors = dict(zip("qrab", Encoder()("qrab", "query"), strict=True))
    assert found == pytest.approx([float(vectors[query] @ vectors[text]) for query, text in pairs], abs=1e-6)
    assert found[3] == pytest.approx(1)
    assert judge.scores([("c", "a"), ("q", "b")])[1] == pytest.approx(found[1])
    assert encoder.calls[2:] == [("query", ["c"])]
    assert judge.relevance("q", "a") == pytest.approx(found[0])


def test_no_pairs() -> None:
    encoder = Encoder()
    assert EmbeddingJudge(encoder).scores([]) == []
    assert CrossEncoderJudge(lambda pairs: [0.0] * len(pairs)).scores([]) == []
    assert encoder.calls == []


def test_many_pairs_take_no_time_beyond_the_encoding() -> None:
    texts = [f"text {number}" for number in range(3000)]
    judge = EmbeddingJudge(Encoder())
    pairs = [(texts[number % 2600], texts[(number * 7) % 3000]) for number in range(13_000)]
    start = time.process_time()
    found = judge.scores(pairs)
    assert time.process_time() - start < 10
    assert len(found) == 13_000
    assert found[9000] == pytest.approx(judge.relevance(*pairs[9000]), abs=1e-6)


def test_a_cross_encoder_is_asked_about_each_pair_once() -> None:
    calls: list[list[tuple[str, str]]] = []

    def predict(pairs: list[tuple[str, str]]) -> list[float]:
        calls.append(pairs)
        return [len(text) / 10 for _, text in pairs]

    judge = CrossEncoderJudge(predict)
    assert judge.scores([("q", "abc"), ("r", "a"), ("q", "abc")]) == [0.3, 0.1, 0.3]
    assert judge.scores([("r", "a"), ("a", "r")]) == [0.1, 0.1]
    assert calls == [[("q", "abc"), ("r", "a")], [("a", "r")]]


def test_an_answer_for_each_pair_is_wanted() -> None:
    with pytest.raises(ValueError, match="zip"):
        CrossEncoderJudge(lambda pairs: [0.5]).scores([("q", "a"), ("q", "b")])


def test_a_real_cross_encoder_gives_what_its_predict_gives(tiny_cross_encoder: Path) -> None:
    model = load_cross_encoder(str(tiny_cross_encoder))
    pairs = [("the cat", "a big dog runs"), ("fish", "the old house"), ("the cat", "a big dog runs"), ("who", "bird")]
    found = CrossEncoderJudge(lambda asked: model.predict(asked, show_progress_bar=False)).scores(pairs)
    assert found == pytest.approx(model.predict(pairs, show_progress_bar=False).tolist(), abs=1e-6)
    assert found[0] == found[2] != found[1]


def test_a_cross_encoder_gives_the_sigmoid_of_its_logit(tiny_cross_encoder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pair = ("the cat", "a big dog runs under the old table")
    tokens = AutoTokenizer.from_pretrained(tiny_cross_encoder)(*pair, return_tensors="pt")
    with torch.no_grad():
        logit = AutoModelForSequenceClassification.from_pretrained(tiny_cross_encoder).eval()(**tokens).logits.item()
    model = load_cross_encoder(str(tiny_cross_encoder), max_tokens=32)
    assert model.max_seq_length == 32
    assert model.predict([pair], show_progress_bar=False)[0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_what_is_no_cross_encoder(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grading.judge_model: .* no head that scores pairs .*wanted a cross-encoder"):
        load_cross_encoder(str(tiny_encoder))
    with pytest.raises(ConfigError, match="no such folder"):
        load_cross_encoder(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded as a cross-encoder"):
        load_cross_encoder(str(tmp_path))
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(tiny_cross_encoder), num_labels=3, model_kwargs={"ignore_mismatched_sizes": True}).save_pretrained(
        str(tmp_path / "three")
    )
    with pytest.raises(ConfigError, match="gives 3 scores for a pair"):
        load_cross_encoder(str(tmp_path / "three"))
