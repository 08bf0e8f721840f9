"""What results of benchmarks say of their making."""

import json
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.shared.environment import code, require_commit

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*/results/*.json"))


def fields_of(value: Any) -> list[tuple[str, Any]]:
    """All fields, however deep."""
    if isinstance(value, list):
        return [field for item in value for field in fields_of(item)]
    return [*value.items(), *fields_of(list(value.values()))] if isinstance(value, dict) else []


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_results_name_commit_and_seeds(path: Path) -> None:
    result = json.loads(path.read_text())
    fields = fields_of(result)
    commits = [value for key, value in fields if key == "commit"]
    assert commits and not [commit for commit in commits if "dirty" in commit]
    assert [value for key, value in fields if key in ("seed", "seeds")]
    for metrics in result.get("tasks", {}).values():
        for arms in metrics.values():
            trained = {arm: score["each"] for arm, score in arms.items() if arm != "base, not trained"}
            seeds = result["seeds"]["trainings"]
            assert {arm: len(each) for arm, each in trained.items()} == {arm: len(seeds[arm]) for arm in trained}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("src/code.py", "docs/page.md", "benchmarks/size/results/old.json", ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("runs/\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "All"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("src/code.py", True),
        ("src/new.py", True),
        ("benchmarks/new.py", True),
        ("docs/page.md", False),
        ("benchmarks/size/results/old.json", False),
        ("src/runs/x.py", False),  # is ignored
    ],
)
def test_what_no_commit_has_is_not_measured(name: str, is_refused: bool, repository: Path) -> None:
    refusing, allowing = Namespace(allow_dirty=False), Namespace(allow_dirty=True)
    clean = code(repository)
    assert clean.keys() == {"commit"}
    require_commit(refusing, repository)
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("changed")
    require_commit(allowing, repository)
    if not is_refused:
        require_commit(refusing, repository)
        assert code(repository) == clean
        return
    with pytest.raises(SystemExit, match="a result must name its commit. Commit it, or give --allow-dirty"):
        require_commit(refusing, repository)
    one = code(repository)
    assert one["commit"] == clean["commit"] and one["changes"].startswith("sha256 ")
    (repository / name).write_text("changed otherwise")
    assert code(repository)["changes"] != one["changes"]


def test_without_a_repository_nothing_is_measured(tmp_path: Path) -> None:
    assert code(tmp_path) == {"commit": "unknown"}
    with pytest.raises(SystemExit):
        require_commit(Namespace(allow_dirty=False), tmp_path)
