"""An estimate of what asking takes, by a sample and by the lengths of the texts."""

from pathlib import Path
from typing import Any

import pytest

from multigrain.pipeline.generation.estimate import estimate_usage, usage_bound
from multigrain.records import Pair
from multigrain.synthesis.negatives import plan_negatives
from tests.pipeline.drawn_pairs import config, texts


@pytest.mark.parametrize(
    "synthesis",
    [
        {"prompt_style": "per-grade"},
        {"prompt_style": "all-grades"},
        {"prompt_style": "all-grades", "per_grade": 2, "grades": [2, 4], "domain": "law", "language": "German"},
        {"prompt_style": "per-grade", "per_grade": 2, "sources": {"4": "mined"}, "answer_tokens": 99},
    ],
)
def test_a_sample_tells_what_all_requests_take(synthesis: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [*texts(300), Pair("long", "q " * 500, "word " * 9000), Pair("wide", "\0\ud800 ä", "ä\u3000é\0" * 300)]
    settings = config(synthesis=synthesis)
    everything = list(plan_negatives(settings, lambda: pairs, len(pairs), "m"))
    exact = estimate_usage(settings, everything)
    bound = usage_bound(settings, pairs)
    few = estimate_usage(settings, plan_negatives(settings, lambda: pairs[:100], 100, "m"), bound)
    assert exact is not None and few is not None
    assert few.most.calls == exact.most.calls == len(everything)
    assert few.likely.tokens == pytest.approx(exact.likely.tokens, rel=0.05)
    assert few.most.completion_tokens == exact.most.completion_tokens
    assert exact.most.prompt_tokens <= few.most.prompt_tokens
    if synthesis["prompt_style"] == "all-grades":  # no term of a cloze, which may be anywhere in the text
        assert few.most.prompt_tokens <= 1.05 * exact.most.prompt_tokens


def test_a_prompt_that_names_a_text_twice_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "grade_2.txt").write_text("$positive and $positive and $query:\n$passage")
    settings = config(synthesis={"prompts": str(tmp_path), "prompt_style": "per-grade", "grades": [2]})
    pairs = texts(20, words=10)
    exact = estimate_usage(settings, plan_negatives(settings, lambda: pairs, 20, "m"))
    assert exact is not None
    assert exact.most.prompt_tokens <= usage_bound(settings, pairs).prompt_tokens <= 1.1 * exact.most.prompt_tokens
