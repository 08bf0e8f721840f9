from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import QUICKSTART, Config, differences, load_config
from multigrain.errors import ConfigError
from multigrain.rundir import to_toml

PHASE = '[[training.phases]]\nname = "a"\ngrades = [1]\n'
GOOD = 'name = "x"\n[data]\npairs = "python-docs"\n'


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "[training]\nbatchsize = 3\n", 'training.batchsize: unknown key; did you mean "training.batch_size"?'),
        (GOOD + '[[training.phases]]\nname="a"\ngrades=[1]\nstep=3\n', 'did you mean "training.phases.steps"?'),
        (GOOD + "[train]\n", 'train: unknown key; did you mean "training"?'),
        ("batch_size = 3\n" + GOOD, 'batch_size: unknown key; did you mean "training.batch_size"?'),
        (GOOD + '[training]\nbatch_size = "3"\n', 'training.batch_size: found "3"; input should be a valid integer'),
        (GOOD + "[training]\nbatch_size = 1\n", "training.batch_size: found 1; input should be greater than or equal"),
        (GOOD + "[training]\nsteps = 0\n", "training.steps: found 0; input should be greater than or equal to 1"),
        (
            GOOD + '[training]\nlearning_rate = "fast"\n',
            'training.learning_rate: found "fast"; input should be a',
        ),
        (
            GOOD + '[training]\nschedule = "easy"\n',
            'training.schedule: found "easy"; input should',
        ),
        (GOOD + '[training]\nschedule = "reverse"\n' + PHASE, "schedule = reverse is of no use with phases"),
        (
            GOOD + "[training]\nsteps = 9\n" + PHASE + "steps = 3\n",
            "training: steps = 9, but the phases have 3",
        ),
        (GOOD + PHASE + "steps = 3\nshare = 0.5\n", 'phase "a" has steps and share; give one of them'),
        (GOOD + PHASE + "weights = [1, 1]\n", 'phase "a" has 2 weights for 1 grades'),
        (GOOD + "[grading]\nbands = [0.6, 0.3, 0.8]\n", "grading: bands and false_negative_above must rise"),
        (GOOD + '[llm]\nprovider = "endpoint"\n', 'llm: provider = "endpoint" also needs base_url and model'),
        (GOOD + "[model.lora]\nrnk = 3\n", 'model.lora.rnk: unknown key; did you mean "model.lora.rank"?'),
        (GOOD + "[model.lora]\ntargets = 5\n", "model.lora.targets: found 5; input should be 'all-linear'"),
        (GOOD + '[model.anchor]\nform = "cubic"\n', 'model.anchor.form: found "cubic"; input should be'),
        (GOOD + '[model]\npooling = "mean"\nanchor = {detach = true}\n', "model: model.anchor is of use with pooling"),
        (GOOD + "[export]\nint8 = true\n", "export: int8 = true needs onnx = true"),
        (GOOD + "[model]\nprompt_in_pooling = false\n[export]\nonnx = true\n", "wants model.prompt_in_pooling = true"),
        ('name = "x"\n', "data: missing"),
        ('name = "../x"\n[data]\npairs = "python-docs"\n', 'name: found "../x"'),
    ],
)
def test_each_fault_says_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = 'nam = "x"\n[data]\npairs = 3\nheld_out = 2.0\n[model]\npooling = "mena"\n'
    found = faults(tmp_path, text)
    for key in ("name", "nam", "data.pairs", "data.held_out", "model.pooling"):
        assert any(fault.startswith(key) for fault in found), (key, found)


def test_what_is_no_toml(tmp_path: Path) -> None:
    assert "not TOML" in faults(tmp_path, "name = \n")[0]
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")


def test_overrides_win_and_are_typed(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "training.batch_size=64", "model.pooling=mean", "data.held_out=0.2")
    assert (config.training.batch_size, config.model.pooling, config.data.held_out) == (64, "mean", 0.2)
    assert "section.key=value" in faults(tmp_path, GOOD, "training.batch_size 64")[0]


def test_input_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    text = 'name = "x"\n[data]\npairs = "beir:${SOMEWHERE}/scifact:train"\ncorpus = "corpus.jsonl"\n'
    config = load(tmp_path, text)
    assert config.data.pairs == "beir:/data/scifact:train"
    assert config.data.corpus == str(tmp_path / "corpus.jsonl")
    monkeypatch.delenv("SOMEWHERE")
    assert "the environment variable SOMEWHERE is not set" in faults(tmp_path, text)[0]


def test_fingerprint_depends_on_the_sections_named_alone(tmp_path: Path) -> None:
    one, other = load(tmp_path, GOOD), load(tmp_path, GOOD, "training.batch_size=64")
    assert one.fingerprint("data", "model") == other.fingerprint("data", "model")
    assert one.fingerprint("training") != other.fingerprint("training")


def test_quickstart_survives_the_run_folder() -> None:
    config = load_config(QUICKSTART)
    import tomllib

    assert differences(tomllib.loads(to_toml(config)), config) == []


@given(st.text(min_size=1), st.floats(0.001, 0.3, allow_nan=False), st.integers(2, 512))
def test_any_setting_survives_the_run_folder(phase: str, rate: float, batch: int) -> None:
    import tomllib

    settings = {
        "name": "x",
        "data": {"pairs": "a.jsonl"},
        "training": {
            "batch_size": batch,
            "learning_rate": rate,
            "phases": [{"name": phase, "grades": [1, 4], "steps": 3}],
        },
    }
    config = Config.model_validate(settings)
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config
