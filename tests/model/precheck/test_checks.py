"""Models that score pairs, and those that do not."""

import json
import shutil
from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
)

from multigrain.config import load_config
from multigrain.errors import ConfigError
from multigrain.model.load import load_cross_encoder
from multigrain.model.precheck import precheck_cross_encoder
from multigrain.pipeline.preflight import require
from tests.model.saved_models import edit, with_modules


def test_cross_encoders(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    two = shutil.copytree(tiny_cross_encoder, tmp_path / "two")
    edit(two / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    cases = [(tiny_encoder, "has no head that scores pairs .BertModel"), (two, "gives 2 scores for a pair")]
    for folder, message in cases:
        config = load_config(run_toml, ['grading.judge="cross-encoder"', f"grading.cross_encoder={folder}"])
        with pytest.raises(ConfigError, match=f"grading.cross_encoder: .*{message}"):
            require(config)
    with pytest.raises(ConfigError, match="has no head"):
        load_cross_encoder(str(tiny_encoder))
    require(load_config(run_toml, ['grading.judge="cross-encoder"', f"grading.cross_encoder={tiny_cross_encoder}"]))


def test_an_encoder_is_no_cross_encoder(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    encoder = with_modules(tiny_encoder, tmp_path / "encoder", Normalize())
    for name in ("config_sentence_transformers.json", "old settings"):  # as old releases saved it, without a kind
        with pytest.raises(ConfigError, match=r"cross_encoder: .*encoder has no head that scores pairs .BertModel"):
            precheck_cross_encoder(str(encoder), "grading.cross_encoder")
        if "json" in name:
            (encoder / name).unlink()
    scorer = shutil.copytree(tiny_cross_encoder, tmp_path / "scorer")
    modules = json.loads((scorer / "modules.json").read_text())
    place = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    (scorer / "modules.json").write_text(json.dumps([*modules, modules[0] | {"type": place, "path": "1_LogitScore"}]))
    edit(scorer / "config.json", architectures=["Qwen3ForCausalLM"])
    precheck_cross_encoder(str(scorer), "grading.cross_encoder")
