"""What `check --plan` counts from the settings alone, and the recipes that it is for."""

import re
import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest

from multigrain.cli.main import main
from multigrain.config import Config, load_config
from multigrain.errors import ConfigError
from multigrain.evaluation.mteb_tasks import tokens_of
from multigrain.pipeline.plan import parameters, plan, usage

RECIPES = Path(__file__).parents[2] / "recipes"
LARGE, SMALL = RECIPES / "negative-matters.toml", RECIPES / "negative-matters-small.toml"


def planned(**settings: Any) -> Config:
    sections: dict[str, Any] = {
        "name": "planned",
        "data": {"pairs": "hf:org/pairs", "limit": 1000},
        "synthesis": {"limit": 0},
        "model": {"base": "org/Toy-2B-chat"},
        "training": {"schedule": "in-batch", "steps": 10, "batch_size": 50},
        "evaluation": {"tasks": ["mteb:SciFact"]},
    }
    return Config.model_validate(sections | settings)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_hours_are_those_of_a_hand_computation() -> None:
    """10 steps of 50 queries of 20 tokens and 50 documents of 100, six operations for each of 2 G parameters."""
    report = plan(planned())
    assert "10 steps x 50 pairs, 0.1 million tokens" in report
    assert "1,000 pairs given by hf:org/pairs" in report and "no requests to a language model" in report
    evaluated = 2 * 2 * 2e9 * tokens_of(["SciFact"]) / (0.3 * 989e12) / 3600
    trained = 6 * 2e9 * 10 * 50 * 120 / (0.3 * 989e12) / 3600
    assert re.search(rf"train {trained:,.1f}, evaluate {evaluated:,.1f}", report)
    assert "hf download org/Toy-2B-chat" in report and "hf download org/pairs --repo-type dataset" in report


def test_texts_of_mteb_are_those_that_its_package_describes() -> None:
    """SciFact has 5,183 documents of 1,498 letters and 300 queries of 90, in tokens of 4 letters."""
    assert abs(tokens_of(["SciFact"]) - (5183 * 1498 + 300 * 90) / 4) < 0.01 * 5183 * 1498 / 4
    assert tokens_of(["SciFact", "SciFact"]) == tokens_of(["SciFact"])


@pytest.mark.parametrize(
    ("name", "count"),
    [("org/Model-7B", 7e9), ("org/small-135M-Instruct", 135e6), ("org/e5-1.5b", 1.5e9), ("org/b2b", None)],
)
def test_size_is_read_from_the_name_of_a_model_that_is_not_here(name: str, count: float | None) -> None:
    assert parameters(name) == count


def test_open_number_of_pairs_is_refused() -> None:
    with pytest.raises(ConfigError, match="--plan: data: found no limit, .* give it the key limit"):
        plan(planned(data={"pairs": "hf:org/pairs"}))


@pytest.mark.usefixtures("no_network")
def test_paper_is_planned_without_data_weights_or_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(LARGE), "--plan"]) == 0
    report = capsys.readouterr().out
    for part in ("asking", "$", "GPU hours", "disk", "from hub", "1,600 steps x 512"):
        assert part in report
    asked = usage(load_config(LARGE), 10**6)
    assert abs(asked.tokens - 180e6) < 0.05 * 180e6, "the paper has about 180 million tokens written"
    assert not any(tmp_path.iterdir())


def test_recipes_differ_in_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of a source determines which of the keys pairs and corpus it has."""
    large, small = (tomllib.loads(path.read_text(encoding="utf-8")) for path in (LARGE, SMALL))
    sources = [{key for source in recipe["data"].pop("sources") for key in source} for recipe in (large, small)]
    assert {*sources[0], "corpus"} == {*sources[1], "mode"}
    assert _keys(large) == _keys(small)
    monkeypatch.setenv("MULTIGRAIN_DATA", "data")
    load_config(SMALL)


def _keys(table: dict[str, Any]) -> Any:
    """Return the keys of the tables in a table; how a server is reached depends on the provider."""
    reached = ("base_url", "model", "api_key_env")
    return {
        key: _keys(value) if isinstance(value, dict) else None
        for key, value in table.items()
        if not (key in reached and "provider" in table)
    }
