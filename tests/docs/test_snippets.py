"""Whatever the documentation shows is checked: commands, settings, Python, messages."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from multigrain.cli.main import main
from multigrain.cli.parser import build_parser
from multigrain.config import Config, explained
from multigrain.config.reference import settings_of
from multigrain.experiments.settings import Ablation
from tests.conftest import small_pairs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
OTHERS = {"vllm", "hf", "export", "cd", "git", "make", "pip", "python"}
"""Programs that a command may begin with besides multigrain; the last three are checked, too."""
BASE: dict[str, Any] = {"name": "base", "data": {"pairs": "pairs.jsonl"}}
"""What a fragment of settings lacks to be a run."""
RUN = re.compile(r'"(my\.toml|runs/my-search[^"]*)"')


def blocks(*languages: str) -> list[Any]:
    """Return the fenced blocks of all pages, as parameters of a test."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            if block[2] in languages:
                line = text.count("\n", 0, block.start()) + 2
                found.append(pytest.param(block[3], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each command, without comments, variables in front and the path of the environment."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def require_known(words: list[str]) -> None:
    """Check one command with the parser, the Makefile or the packages that it names."""
    program, *arguments = words
    if program == "torchrun" and "multigrain" in arguments:
        program, arguments = "multigrain", arguments[arguments.index("multigrain") + 1 :]
    if program == "python" and arguments[:2] == ["-m", "multigrain"]:
        program, arguments = "multigrain", arguments[2:]
    if program == "multigrain":
        if "--version" not in arguments and "--help" not in arguments:
            build_parser().parse_args(arguments)
        return
    assert program in OTHERS, f"unknown program {program}"
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(f"\n{verb}:" in makefile for verb in arguments if "=" not in verb), arguments
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1] in ("pip", "http.server", "venv") or find_spec(arguments[1]), arguments
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), arguments
    elif program == "pip":
        require_extras(arguments)


def require_extras(arguments: list[str]) -> None:
    """Check that the extras which pip is to install are in pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"multigrain\[([^\]]+)\]", " ".join(arguments)):
        assert set(named.split(",")) <= extras.keys(), named


@pytest.mark.parametrize("block", blocks("sh", "bash", "console"))
def test_commands_are_those_of_the_parser(block: str) -> None:
    for words in commands(block):
        try:
            require_known(words)
        except SystemExit:
            pytest.fail(f"the parser refuses: {shlex.join(words)}")


def test_commands_in_printed_blocks_are_those_of_the_parser() -> None:
    for parameter in blocks("text"):
        for line in str(parameter.values[0]).splitlines():
            if re.match(r"\$ (\S*/)?multigrain ", line):
                require_known(next(commands(line)))


@pytest.mark.parametrize("block", blocks("toml"))
def test_settings_are_those_of_the_models(block: str) -> None:
    settings = tomllib.loads(block)
    kind: type[Config | Ablation] = Ablation if "arms" in settings else Config
    try:
        kind.model_validate(completed(settings) if kind is Config else settings)
    except ValidationError as error:
        pytest.fail("\n".join(explained(error, kind)))


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Make a run of a fragment: put bare keys into their section, and add what every run needs."""
    bare = settings.keys() - Config.model_fields.keys()
    if bare:
        sections = {setting.key: setting.section for setting in settings_of(Config) if setting.section}
        home = next(key for key, section in sections.items() if bare <= section.model_fields.keys())
        settings = {home: settings}
    data = settings.get("data", {})
    if settings.get("synthesis", {}).get("mode", "negatives") == "negatives" and "sources" not in data:
        data = BASE["data"] | data
    return {**BASE, **settings, "data": data}


@pytest.mark.parametrize("block", blocks("python"))
def test_python_compiles_and_imports(block: str) -> None:
    tree = ast.parse(block)
    compile(tree, "<documentation>", "exec")
    imports = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    exec(compile(imports, "<documentation>", "exec"), {})


def prepared(folder: Path, toml: str, encoder: Path) -> Path:
    """Lay out the files of the first run of a reader, on the tiny encoder."""
    pairs = small_pairs()
    corpus = [{"id": pair["id"], "text": pair["positive"]} for pair in pairs]
    for name, rows in (("pairs", pairs), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = [f'model.base = "{encoder}"', f'grading.judge_model = "{encoder}"', 'baseline.against = "none"']
    tiny += ["grading.bands = [0.7, 0.8, 0.9]", "grading.false_negative_above = 0.999", "model.max_tokens = 32"]
    (folder / "my.toml").write_text("\n".join([*tiny, toml]))
    return folder


def of_page(name: str, language: str) -> list[str]:
    """Return the blocks of one page."""
    return [str(block.values[0]) for block in blocks(language) if str(block.id).startswith(f"{name}:")]


def test_the_first_steps_work_as_they_are_told(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's settings, its commands in their order, then all Python blocks that speak of its run."""
    page = "docs/getting-started.md"
    (toml,) = of_page(page, "toml")
    monkeypatch.chdir(prepared(tmp_path, toml, tiny_encoder))
    for block in of_page(page, "sh"):
        for words in commands(block):
            if words[0] == "multigrain":
                assert main(words[1:]) == 0, words
    table = re.findall(r"`([a-z_/.]+)`", (ROOT / page).read_text(encoding="utf-8").split("## What comes out")[1])
    files = [name for name in table if "/" in name or name == "summary.json"]
    assert len(files) >= 8
    for name in files:
        assert list(tmp_path.glob(f"runs/my-search/{name}*")) or name.startswith("runs/"), name
    for parameter in blocks("python"):
        block = str(parameter.values[0])
        if RUN.search(block) and "mteb" not in block and "..." not in block:
            exec(compile(block, str(parameter.id), "exec"), {"__name__": "__main__"})
    capsys.readouterr()


def test_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    text = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(messages) > 15
    said = "\n".join(texts_of_code())
    assert not [message for message in messages if message not in said]


def texts_of_code() -> Iterator[str]:
    """Yield the texts of the source; what an f-string fills in is left out."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_words_of_the_contributors_are_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "concepts" / "glossary.md").read_text(encoding="utf-8").lower()
    for word in ("grade", "judge", "phase", "arm", "parked", "anchor token", "curriculum", "candidate", "tuple"):
        assert f"**{word}**" in glossary, word
