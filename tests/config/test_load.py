from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.errors import ConfigError
from tests.config.text import GOOD, faults, load


def test_an_example_says_where_its_data_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIGRAIN_DATA", raising=False)
    with pytest.raises(ConfigError, match="MULTIGRAIN_DATA is not set") as caught:
        load_config(Path(__file__).parents[2] / "examples" / "scifact.toml")
    assert "set it to the folder where the rest of the path starts" in caught.value.faults[0]
    assert str(caught.value).count("BEIR/datasets/scifact.zip there") == 1
    assert [fault.partition(": the environment variable")[0] for fault in caught.value.faults] == [
        "data.pairs", "evaluation.tasks",
    ]  # fmt: skip


def test_what_is_no_toml(tmp_path: Path) -> None:
    assert "not TOML" in faults(tmp_path, "name = \n")[0]
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")


def test_overrides_win_and_are_typed(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "training.batch_size=64", "model.pooling=mean", "data.held_out=0.2")
    assert (config.training.batch_size, config.model.pooling, config.data.held_out) == (64, "mean", 0.2)
    assert "section.key=value" in faults(tmp_path, GOOD, "training.batch_size 64")[0]


def test_a_run_folder_made_when_there_was_symmetric_can_be_read(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "[training]\nsymmetric = false\n")
    assert config.training.directions == ["query_to_doc"]
    (found,) = faults(tmp_path, GOOD + "[training]\nsymmetric = 0\n")
    assert 'unknown key; symmetric = true is now directions = ["query_to_doc", "doc_to_query"]' in found


def test_a_length_in_steps_wins_over_one_in_epochs(tmp_path: Path) -> None:
    """Else nobody could try a file that says `epochs` for a few steps."""
    text = GOOD + "[training]\nepochs = 2.5\n"
    assert load(tmp_path, text, "training.steps=3").training.total_steps(10**6) == 3
    assert load(tmp_path, GOOD + "[training]\nsteps = 3\n", "training.epochs=2").training.total_steps(6400) == 200
    both = faults(tmp_path, text + "steps = 3\n")
    assert both == ["training: found epochs = 2.5 and steps = 3; give one of them"]


def test_input_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    text = 'name = "x"\n[data]\npairs = "beir:${SOMEWHERE}/scifact:train"\ncorpus = "corpus.jsonl"\n'
    config = load(tmp_path, text)
    assert config.data.pairs == "beir:/data/scifact:train"
    assert config.data.corpus == str(tmp_path / "corpus.jsonl")
    monkeypatch.delenv("SOMEWHERE")
    assert "the environment variable SOMEWHERE is not set" in faults(tmp_path, text)[0]
