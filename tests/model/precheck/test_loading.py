"""Models that cannot be loaded are told by their files."""

import json
import shutil
from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
)

from multigrain.config import ModelSection, load_config
from multigrain.errors import ConfigError
from multigrain.model.precheck import notes, precheck_base, precheck_cross_encoder, precheck_encoder
from multigrain.pipeline.preflight import require
from tests.model.saved_models import edit, refused, with_modules


def test_code_of_its_own(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base")
    modules = json.loads((base / "modules.json").read_text())
    modules[1]["type"] = "modeling_mine.MyPooling"
    (base / "modules.json").write_text(json.dumps(modules))
    refused(ModelSection(base=str(base)), "modules of its own, which multigrain does not run .modeling_mine.MyPooling")
    with pytest.raises(ConfigError, match="grading.judge_model: .*modeling_mine.MyPooling"):
        require(load_config(run_toml, [f"grading.judge_model={base}"]))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_files_that_are_missing(missing: str, tiny_encoder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    for name in (missing, *(["vocab.txt", "tokenizer_config.json"] if "tokenizer" in missing else [])):
        (base / name).unlink()
    what = "weight" if "model" in missing else "tokenizer"
    refused(ModelSection(base=str(base)), f"there is no {what} file in {base}")


def test_code_of_its_own_under_a_known_name(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    edit(base / "config.json", auto_map={"AutoModel": "jinaai/code--modeling_bert.JinaBertModel"})
    with pytest.raises(ConfigError, match=r"model.base: .*code of its own, which multigrain does not run .*JinaBert"):
        precheck_base(ModelSection(base=str(base)))
    with pytest.raises(ConfigError, match=r"judge_model: .*code of its own, .*JinaBertModel"):
        precheck_encoder(str(base), "grading.judge_model")
    edit(base / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.BertModel"})
    precheck_base(ModelSection(base=str(base)))  # the code has become transformers' own
    [note] = notes(ModelSection(base=str(base), max_tokens=32))
    assert note == "the base has its own code (code.BertModel); the bert of transformers replaces it"
    judge = shutil.copytree(tiny_cross_encoder, tmp_path / "judge")
    edit(judge / "config.json", auto_map={"AutoModelForSequenceClassification": "code.JinaScores"})
    with pytest.raises(ConfigError, match=r"grading.cross_encoder: .*code of its own, .*JinaScores"):
        precheck_cross_encoder(str(judge), "grading.cross_encoder")


def test_a_list_of_modules_without_a_pooling(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Normalize())
    modules = json.loads((base / "modules.json").read_text())
    (base / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ConfigError, match="model.base: .* modules.json lists no pooling module .Transformer., so it"):
        precheck_base(ModelSection(base=str(base)))
    (base / "modules.json").write_text(json.dumps([modules[0], modules[2]]))
    with pytest.raises(
        ConfigError, match="judge_model: .* modules.json lists no pooling module .Transformer, Normalize."
    ):
        precheck_encoder(str(base), "grading.judge_model")
    precheck_cross_encoder(str(tiny_cross_encoder), "grading.cross_encoder")
