"""The stages of a run: what decides whether they are done again."""

from pathlib import Path

import pytest

from multigrain.config import load_config
from multigrain.pipeline.verbs import run


def test_a_setting_that_changes_no_file_redoes_nothing_after_it(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(load_config(run_toml))
    capsys.readouterr()
    run(load_config(run_toml, ["synthesis.domain=''"]), force=True)
    err = capsys.readouterr().err
    assert "synthesize ..." in err and "grade ..." in err
    for stage in ("data", "train", "evaluate"):
        assert f"{stage}: already done" in err
