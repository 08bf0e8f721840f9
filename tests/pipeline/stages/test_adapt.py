"""The stage `adapt` in whole runs on a tiny decoder."""

import json
import shutil
import time
from pathlib import Path

import pytest
from transformers import AutoModel

from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.model.build import sees_ahead
from multigrain.model.files import model_digest
from multigrain.model.load import load_model
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_table import names_of
from multigrain.pipeline.stages.adapt import _texts
from multigrain.training import adaptation
from tests import warm
from tests.model.decoder import tiny_decoder

ADAPT = """
[adapt]
tokens = 600
batch_tokens = 64
max_tokens = 16
mask_token = "the"
"""


@pytest.fixture
def adapting(run_toml: Path, tiny_encoder: Path) -> Path:
    """The file of a run that adapts its base, a decoder."""
    text = run_toml.read_text().replace(f'base = "{tiny_encoder}"', f'base = "{tiny_decoder("both", head=True)}"')
    run_toml.write_text(text.replace("[model]", "[model]\nbidirectional = true\nlora = { rank = 2 }") + ADAPT)
    return run_toml


def test_the_run_trains_the_adapted_base_and_measures_the_given_one(
    adapting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(adapting)]) == 0
    out = capsys.readouterr().out
    assert "adapting    " in out
    assert "adapt under a minute" in out
    assert main(["run", str(adapting)]) == 0
    run_dir = RunDir(load_config(adapting).folder)
    assert "held-out loss" in capsys.readouterr().err
    settings = json.loads((run_dir.trained / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(run_dir.adapted.absolute())
    assert run_dir.stages()["evaluate"].models == {(base := str(tiny_decoder("both", head=True))): model_digest(base)}
    assert not (run_dir.adaptation / "checkpoints").exists()
    assert sees_ahead(AutoModel.from_pretrained(run_dir.adapted))
    card = (run_dir.model / "README.md").read_text()
    assert "adapted by masked next token prediction on 600 tokens" in card
    assert load_model(run_dir.model).encode(["the old cat"]).shape == (1, 32)  # needs no other folder
    adapted = model_digest(str(run_dir.adapted))
    assert main(["run", str(adapting), "--set", "training.learning_rate=1e-4", "--force"]) == 0
    assert "adapt: already done" in capsys.readouterr().err
    assert main(["run", str(adapting), "--set", "adapt.tokens=700", "--force"]) == 0
    out = capsys.readouterr().err
    assert "grade: already done" in out
    assert "adapt ..." in out
    assert "train ..." in out
    assert model_digest(str(run_dir.adapted)) != adapted


def test_another_run_takes_over_the_adapted_base(adapting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_config(adapting)
    until_adapted = names_of(first)[:4]
    assert until_adapted[-1] == "adapt"
    run_stages(first, until_adapted, force=False)
    other = load_config(adapting, ["name=other", "training.seed=9", "model.pooling=mean"])
    capsys.readouterr()
    run_stages(other, until_adapted, force=False, donors=[first.folder])
    assert "adapt: reused from" in capsys.readouterr().err
    assert model_digest(str(RunDir(other.folder).adapted)) == model_digest(str(RunDir(first.folder).adapted))


def test_an_interrupted_adaptation_goes_on(
    adapting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(adapting)
    names = names_of(config)[:4]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "merge_in_place", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stages(config, names, force=False)
    checkpoints = RunDir(config.folder).adaptation / "checkpoints"
    last = max(int(path.name.partition("-")[2]) for path in checkpoints.glob("checkpoint-*"))
    capsys.readouterr()
    run_stages(config, names, force=False)
    assert "now: loss" not in capsys.readouterr().err  # all steps were done already
    log = [json.loads(line) for line in (RunDir(config.folder).adaptation / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, last + 1))


def test_an_adaptation_that_is_killed_ends_with_the_same_weights(adapting: Path, tmp_path: Path) -> None:
    ready = load_config(adapting)
    run_stages(ready, names_of(ready)[:3], force=False)
    folders = [shutil.copytree(ready.folder, tmp_path / name / "tiny") for name in ("whole", "killed")]
    whole, killed = map(RunDir, folders)
    command = ["adapt", str(adapting), "--quiet", "--set", "adapt.tokens=6000", "--set"]
    disturbed = warm.start(*command, f"output={tmp_path / 'killed'}")
    checkpoints = killed.adaptation / "checkpoints"
    until = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        assert disturbed.is_alive() and time.monotonic() < until
        time.sleep(0.001)
    disturbed.kill()
    disturbed.join()
    assert not killed.adapted.exists()
    for name in ("killed", "whole"):
        assert main([*command, f"output={tmp_path / name}"]) == 0
    assert files_in(killed.adapted) == files_in(whole.adapted)
    log = (whole.adaptation / "log.jsonl").read_bytes()
    assert (killed.adaptation / "log.jsonl").read_bytes() == log and log.count(b"grad_norm") > 100


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of each."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_of_other_settings_are_not_used(adapting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(adapting)
    adaptation_folder = RunDir(config.folder).adaptation
    (stale := adaptation_folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (adaptation_folder / "fingerprint").write_text("another")
    run_stages(config, names_of(config)[:4], force=False)
    assert "adapting starts from the beginning" in capsys.readouterr().err
    assert not stale.exists()


def test_held_out_texts_are_not_read(adapting: Path) -> None:
    config = load_config(adapting)
    run_stages(config, ["data"], force=False)
    run_dir = RunDir(config.folder)
    rows = [json.loads(line) for line in run_dir.corpus.read_text().splitlines()]
    rows[0]["split"] = "held_out"
    run_dir.corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = set(_texts(config, run_dir))
    held_out = {json.loads(line)["query"] for line in run_dir.held_out_pairs.read_text().splitlines()}
    trained = {json.loads(line)["query"] for line in run_dir.train_pairs.read_text().splitlines()}
    assert trained < read
    assert not (held_out - trained) & read
    assert {row["text"] for row in rows[1:] if row["split"] != "held_out"} <= read


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.bidirectional=false", "model.bidirectional is false; set it to true, or remove the section"),
        ("model.base=embedded", "embedded is not a decoder: its tokens attend in both directions already"),
        ("model.base=HEADLESS", "has no language-model head"),
        (
            "adapt.mask_token=old cat",
            "adapt: mask_token: found 'old cat', which the tokenizer of the base splits",
        ),
        ("adapt.max_tokens=65", "adapt: max_tokens: found 65; wanted at most 64, the number of the base's positions"),
        ("adapt.tokens=0", "adapt.tokens"),
        ("adapt.masked=1.5", "adapt.masked"),
        ("adapt.batch_token=64", "adapt.batch_tokens"),
    ],
)
def test_bad_settings_are_told_before_anything_is_paid(
    adapting: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    headless = str(tiny_decoder("both"))
    assert main(["run", str(adapting), "--set", setting.replace("HEADLESS", headless)]) == 2
    assert message in capsys.readouterr().err
    assert not load_config(adapting).folder.exists()
