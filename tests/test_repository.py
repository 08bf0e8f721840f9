"""Workflows, hooks, metadata and Makefile agree with each other and with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from multigrain.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FORMS = ("bug.yml", "idea.yml", "config.yml")

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="an sdist has no .github")


def workflow(name: str) -> dict[Any, Any]:
    read: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    return read


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_every_supported_python_is_tested() -> None:
    listed = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    assert workflow("test")["jobs"]["test"]["strategy"]["matrix"]["python"] == listed
    assert workflow("release")["jobs"]["install"]["strategy"]["matrix"]["python"] == listed
    assert PROJECT["requires-python"] == f">={listed[0]}"


@pytest.mark.parametrize("name", ["check", "test", "docs", "release"])
def test_a_workflow_runs_verbs_that_exist_and_may_write_nothing(name: str) -> None:
    assert workflow(name)["permissions"] == {"contents": "read"}
    commands = [step["run"] for step in steps(name) if "run" in step]
    verbs = re.findall(r"\bmake (\w+)", "\n".join(commands))
    assert verbs and all(f"\n{verb}:" in MAKEFILE for verb in verbs)
    assert all(job["timeout-minutes"] <= 30 for job in workflow(name)["jobs"].values())


def test_a_release_needs_no_secret() -> None:
    publish = workflow("release")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "install"
    assert "secrets" not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert workflow("release")[True]["push"] == {"tags": ["v*"]}  # YAML 1.1 reads `on` as true


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "version" not in citation
    files = [*(ROOT / "src").rglob("*.py"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    holding = [
        path.name for path in files if re.search(rf'version.*"{re.escape(__version__)}"', path.read_text("utf-8"))
    ]
    assert holding == ["version.py"]


def test_addresses_are_those_of_one_repository() -> None:
    home = PROJECT["urls"]["Homepage"]
    assert {"Documentation", "Changelog", "Issues"} <= PROJECT["urls"].keys()
    assert all(url.startswith(home) for name, url in PROJECT["urls"].items() if name != "Paper")
    files = [*(ROOT / ".github").rglob("*.yml"), *(ROOT / name for name in ("SECURITY.md", "CODE_OF_CONDUCT.md"))]
    for path in [*files, ROOT / "CITATION.cff"]:
        found = re.findall(r"https://github\.com/[\w-]+/[\w-]+", path.read_text(encoding="utf-8"))
        assert set(found) <= {home}, path


def test_forms_and_hooks_are_whole() -> None:
    forms = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()}
    assert sorted(forms) == sorted(FORMS)
    for name in ("bug.yml", "idea.yml"):
        assert {"name", "description", "body"} <= forms[name].keys()
        assert all("label" in field["attributes"] for field in forms[name]["body"])
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    check = MAKEFILE.split("\ncheck:")[1].split("\n\n")[0]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in local["hooks"]}
    assert tools == set(re.findall(r"\(BIN\)/([\w-]+)", check))


def test_the_quickstarts_environment_holds_what_its_next_commands_need() -> None:
    (extras,) = re.findall(
        r"-e '\.\[(.*)\]'", MAKEFILE.split("$(VENV)/installed-dev:")[0].split("$(VENV)/installed:")[1]
    )
    assert {"embedded", "onnx", "plots"} <= {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()
