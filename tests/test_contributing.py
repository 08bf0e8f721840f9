"""CONTRIBUTING.md draws the source tree, its layers and its words: each is compared with the code."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from multigrain.config import Config
from multigrain.config.faults import keys_of

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "multigrain"
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_LINES = 400
MOST_ROOMS = 25
MOST_LAYERS = 9
REPLACED = {
    "soup": "weight interpolation",
    "lane": "server",
    "looks": "evaluation callbacks",
    "pace": "self-paced",
    "foresee": "precheck",
    "adoption": "reuse",
    "asking": "generation",
    "the host": "sentence-transformers",
}
"""Words that the code must not use as a name, and what it says instead."""
NAMES_ALONE = {"looks", "asking"}
"""Replaced words that are plain English in a sentence, so that only names of the code may not be these."""


def _layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [layer for layer in layers if layer != "__main__"]


def _rooms() -> set[str]:
    """Return the folders, nested ones too, and the loose modules of the source."""
    folders = {f"{path.parent.relative_to(SOURCE).as_posix()}/" for path in SOURCE.rglob("__init__.py")}
    modules = {path.name for path in SOURCE.glob("*.py")}
    return (folders - {"./"}) | (modules - {"__init__.py", "__main__.py"})


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


class _Module(NamedTuple):
    """What the words of a module are looked for in."""

    where: Path
    tree: ast.Module
    names: list[str]
    docstrings: list[str]


@cache
def _read_modules() -> list[_Module]:
    """Return every module of the source, read once for all words."""
    read = []
    for path in _modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        read.append(_Module(path.relative_to(SOURCE), tree, sorted(set(_names(tree))), list(_docstrings(tree))))
    return read


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that the code defines or uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


def _definitions(tree: ast.Module) -> Iterator[str]:
    """Yield every class and function of a module, and every field of a class as `Class.field`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            fields = [field.target for field in node.body if isinstance(field, ast.AnnAssign)]
            yield from (f"{node.name}.{field.id}" for field in fields if isinstance(field, ast.Name))


def _docstrings(tree: ast.AST) -> Iterator[str]:
    """Yield every docstring, those below attributes and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield " ".join(node.value.value.split())


@cache
def _parts(name: str) -> list[str]:
    """Cut a name at its underscores and capitals: `_LaneState` is lane and state."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def test_the_layers_are_those_that_are_checked() -> None:
    paragraph = next(part for part in GUIDE.split("\n\n") if part.startswith("    cli -> "))
    assert " ".join(paragraph.split()) == " -> ".join(_layers())


def test_the_drawing_has_one_line_for_each_room() -> None:
    drawing = GUIDE.split("```text\n")[1].split("```")[0]
    drawn = [line.split(maxsplit=1) for line in drawing.splitlines()[1:]]
    rooms = [room for room, *_ in drawn]
    assert sorted(rooms) == sorted(_rooms())
    assert all(len(line) == 2 for line in drawn), "each room says what it holds"


def test_every_word_of_the_table_is_in_the_code() -> None:
    defined = {name for module in _read_modules() for name in _definitions(module.tree)}
    rows = [line.split("|")[1:-1] for line in GUIDE.splitlines() if line.startswith("| ")][1:]
    assert rows
    for word, _, places in rows:
        for place in re.findall("`([^`]+)`", places):
            assert place in defined or place in set(keys_of(Config)), f"{word.strip()}: {place} is not in the code"


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_is_gone(word: str) -> None:
    found = []
    keys = {key.rpartition(".")[2] for key in keys_of(Config)}  # these are the users'
    for where, _, names, docstrings in _read_modules():
        found += [f"{where}: {name}" for name in names if word in _parts(name) and name not in keys]
        if word in _parts(where.stem):
            found.append(f"{where}: the module itself")
        is_network = word == "the host" and where.parts[0] == "llm"  # there it is a machine
        if word not in NAMES_ALONE and not is_network:
            pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
            found += [f"{where}: {text[:80]}" for text in docstrings if pattern.search(text)]
    assert not found, f"say {REPLACED[word]}:\n" + "\n".join(sorted(set(found)))


def test_the_house_stays_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _modules()}
    too_long = {str(path.relative_to(SOURCE)): lines for path, lines in lengths.items() if lines > MOST_LINES}
    assert not too_long
    assert len(_rooms()) <= MOST_ROOMS
    assert len(_layers()) <= MOST_LAYERS
