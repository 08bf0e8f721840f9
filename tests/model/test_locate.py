"""Names of models that mean nothing are told before anything is loaded or paid for."""

import json
import shutil
from pathlib import Path

import pytest

from multigrain.config import ModelSection, load_config
from multigrain.errors import ConfigError
from multigrain.model.precheck import precheck_base
from multigrain.pipeline.check import check
from multigrain.pipeline.preflight import require

MODELS = ("model.base", "grading.judge_model", "grading.cross_encoder")


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such/model", "no-such/model: no such folder, and not in the hub's cache; HF_HUB_OFFLINE"),
        ("no-such-model", "no-such-model: no such folder, and not in the hub's cache"),
        ("models/of/mine", "models/of/mine: no such folder; wanted a model's folder"),
        ("./mine", "./mine: no such folder"),
        ("~/mine", "~/mine: no such folder"),
        ("not a name", "not a name: no such folder, and not a valid name on the hub"),
        ("embedded-", 'did you mean "embedded"?'),
        ("embedded_llm", 'did you mean "embedded-llm"?'),
        ("mine.gguf", "mine.gguf: no such file"),
    ],
)
def test_a_name_of_nothing_is_told_by_check(key: str, name: str, message: str, run_toml: Path) -> None:
    settings = [f"{key}={json.dumps(name)}"] + ['grading.judge="cross-encoder"'] * (key == MODELS[2])
    with pytest.raises(ConfigError, match=f"^{key}: ") as caught:
        check(load_config(run_toml, settings))
    assert message in str(caught.value)


def test_a_folder_beside_is_what_is_meant(tiny_encoder: Path, run_toml: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    with pytest.raises(ConfigError, match=f'did you mean "{tmp_path}/encoder"'):
        require(load_config(run_toml, [f"model.base={tmp_path}/encodre"]))


def test_a_file_where_a_folder_is_wanted(tiny_encoder: Path) -> None:
    file = tiny_encoder / "model.safetensors"
    with pytest.raises(ConfigError, match=f"{file} is a file; wanted its folder .{tiny_encoder}") as caught:
        precheck_base(ModelSection(base=str(file)))
    assert "did you mean" not in str(caught.value)
