"""GGUF files that are damaged are told by their headers."""

from pathlib import Path

import pytest

from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.precheck import precheck_model
from tests.model.test_gguf import write_gguf


def test_a_gguf_file_that_is_damaged(tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf")
    precheck_model(ModelSection(base=str(good)))
    whole, bad = good.read_bytes(), tmp_path / "bad.gguf"
    damaged = (b"GGUF" + bytes(100), whole[:20], whole[:400], whole[: len(whole) // 2], whole[:24] + b"\xff" * 500)
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^model.base: .*bad.gguf is (truncated|a GGUF file of version 0)"):
            precheck_model(ModelSection(base=str(bad)))
