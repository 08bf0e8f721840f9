"""The outcome of a run as text."""

from pathlib import Path

from multigrain.config import load_config
from multigrain.files import write_json
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.summary import render

VERDICT = {
    "task": "held-out",
    "metric": "nDCG@10",
    "against": "base",
    "outcome": "LEVEL",
    "difference": [0.1, 0.0, 0.2],
    "trained_on": True,
}


def test_few_items_are_told_beside_the_figure(run_toml: Path) -> None:
    summary = {
        "name": "x",
        "counts": {},
        "seconds": {},
        "base": {"held-out": {"nDCG@10": 0.5}},
        "trained": {"held-out": {"nDCG@10": 0.6}},
        "difference": {"held-out": {"nDCG@10": [0.1, 0.0, 0.2]}},
        "items": {"held-out": 10},
        "verdict": [VERDICT],
    }
    config = load_config(run_toml)
    write_json(RunDir(config.folder).examples, [])
    assert "\nheld-out: 10 items are too few to trust the interval\n\nverdict " in render(config, summary)
    assert "few" not in render(config, {**summary, "items": {"held-out": 20}})
