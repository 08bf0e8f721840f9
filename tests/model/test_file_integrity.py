"""Files that are missing, cut off or damaged are told before a model is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Dense,
)

from multigrain.config import ModelSection, load_config
from multigrain.errors import ConfigError
from multigrain.pipeline.preflight import require
from tests.model.saved_models import cut, refused, with_modules


def as_shards(folder: Path) -> Path:
    """The weights under the name of a shard, with an index that names another one too."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder / "model-00001-of-00002.safetensors"


def pickled(folder: Path, begin: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(begin)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"

DAMAGES: dict[str, tuple[Any, str]] = {
    "pointer": (lambda m: (m / "model.safetensors").write_text(POINTER), "model.safetensors is a git-LFS pointer"),
    "cut": (lambda m: cut(m / "model.safetensors"), "model.safetensors is truncated or damaged"),
    "empty": (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors is truncated or damaged"),
    "no shard": (
        as_shards,
        "model-00002-of-00002.safetensors is missing, although model.safetensors.index.json lists it",
    ),
    "cut shard": (lambda m: cut(as_shards(m)), "model-00001-of-00002.safetensors is truncated or damaged"),
    "settings": (lambda m: (m / "config.json").write_text('{"model_type": '), "config.json is not valid JSON"),
    "modules": (lambda m: (m / "modules.json").write_text("["), "modules.json is not valid JSON"),
    "tokenizer": (lambda m: (m / "tokenizer.json").write_text(POINTER), "tokenizer.json is a git-LFS pointer"),
    "pickle": (lambda m: pickled(m, b"PK\3\4half an archive"), "pytorch_model.bin is truncated or damaged"),
    "others' file": (lambda m: (m / "model.safetensors").rename(m / "training_args.bin"), "there is no weight file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_whole(damage: str, tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    do, message = DAMAGES[damage]
    do(base)
    for key in ("model.base", "grading.judge_model"):
        with pytest.raises(ConfigError, match=f"^{key}: {base} cannot be loaded: .*{message}"):
            require(load_config(run_toml, [f"{key}={base}"]))


def test_a_dense_whose_weights_are_cut(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Dense(32, 16))
    cut(base / "2_Dense" / "model.safetensors")
    refused(ModelSection(base=str(base)), "2_Dense/model.safetensors is truncated or damaged")
