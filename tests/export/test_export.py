import shutil
from pathlib import Path

import numpy as np
import pytest

from multigrain.config import Config, ExportSection, ModelSection
from multigrain.errors import RunError
from multigrain.export import export
from multigrain.export.card import model_card
from multigrain.export.folders import written_whole
from multigrain.export.verify import verify
from multigrain.model.build import build_model
from multigrain.model.load import load_model
from multigrain.schedules import phases_of

SUMMARY = {
    "base": {"held-out": {"nDCG@10": 0.5}},
    "trained": {"held-out": {"nDCG@10": 0.625}},
    "difference": {"held-out": {"nDCG@10": [0.125, 0.1, 0.15]}},
    "counts": {
        "train_pairs": 11,
        "held_out_pairs": 22,
        "written": 33,
        "mined": 44,
        "dropped": 55,
        "negatives": 66,
        "tuples": 77,
    },
}


def test_the_card_tells_figures_data_and_schedule() -> None:
    config = Config.model_validate({"name": "mine", "data": {"pairs": "/home/me/secret/pairs.jsonl"}})
    card = model_card(config, SUMMARY, {}, phases_of(config.training))
    assert "| held-out | nDCG@10 | 0.500 | 0.625 | +0.125 | [+0.100, +0.150] |" in card
    assert "| all grades | 1, 2, 3, 4 | 80 | 0.05 |" in card
    assert "trust_remote_code=True" in card
    for count in (11, 22, 33, 44, 55, 66, 77):
        assert str(count) in card
    assert "/home/me" not in card
    assert "mixed in" not in card
    plain = {"name": "plain", "model": {"pooling": "mean"}, "training": {"seed": 7, "base_share": 0.3}}
    card = model_card(Config.model_validate({**plain, "data": {"pairs": "pairs.jsonl"}}), SUMMARY, {}, [])
    assert "trust_remote_code" not in card
    assert "seed 7. Then 30% of the base's weights were mixed in." in card


def test_an_export_with_graphs(tiny_encoder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    build_model(ModelSection(base=str(tiny_encoder), max_tokens=16)).save_pretrained(str(trained))
    export.export_model(trained, tmp_path / "model", "# card\n", ExportSection(onnx=True, int8=True))
    onnx = {"model.onnx", "model_int8.onnx", "prompts.json", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "model" / "onnx").iterdir()} == onnx
    seen = {finding.name: finding for finding in verify(tmp_path / "model")}
    assert seen["ONNX"].is_good
    build_model(ModelSection(base=str(tiny_encoder), pooling="mean")).save_pretrained(str(tmp_path / "other"))
    shutil.copytree(tmp_path / "model" / "onnx", tmp_path / "other" / "onnx")
    assert not next(finding for finding in verify(tmp_path / "other") if finding.name == "ONNX").is_good


def test_an_export_is_whole_or_not_there(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tmp_path / "trained"
    build_model(ModelSection(base=str(tiny_encoder), max_tokens=16)).save_pretrained(str(trained))
    export.export_model(trained, tmp_path / "model", "# card\n", ExportSection())
    export.export_model(trained, tmp_path / "model", "# another card\n", ExportSection())
    assert (tmp_path / "model" / "README.md").read_text() == "# another card\n"
    texts = ["the cat", "a dog sleeps"]
    np.testing.assert_array_equal(load_model(tmp_path / "model").encode(texts), load_model(trained).encode(texts))

    monkeypatch.setattr(export, "CLOSE", -1.0)
    with pytest.raises(RunError, match="gives other vectors"):
        export.export_model(trained, tmp_path / "model", "# third card\n", ExportSection())
    assert (tmp_path / "model" / "README.md").read_text() == "# another card\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "trained"]


def test_folders_beside_are_left_alone(tmp_path: Path) -> None:
    for name in ("model.part", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    (tmp_path / ".model.multigrain" / "new").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "model").write_text("not a folder")
    with written_whole(tmp_path / "model") as part:
        part.mkdir()
    with pytest.raises(FileExistsError):  # noqa: PT012, SIM117 - the way out of the inner block is tried
        with written_whole(tmp_path / "deep" / "other") as part:
            part.mkdir()
            part.mkdir()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "deep", "model", "model.old", "model.old/mine", "model.part", "model.part/mine",
    ]  # fmt: skip
