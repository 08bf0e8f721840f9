"""A whole run with two sources, on the tiny encoder."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import as_lines, small_pairs

NAMES = ("even", "odd")


def rows_of(name: str, prefix: str = "") -> list[dict[str, Any]]:
    """Every second pair; those of the other source are about the same things."""
    rows = small_pairs(80)[NAMES.index(name) :: 2]
    return [{**row, "id": f"{prefix}{row['id']}", "source": name} for row in rows]


def write_sources(run_toml: Path, *more: str, names: tuple[str, ...] = NAMES) -> Path:
    """Put sources in place of the pairs of a run; each has settings of its own (`more`)."""
    tables = []
    for name, settings in zip(names, more or [""] * len(names), strict=True):
        run_toml.with_name(f"{name}.jsonl").write_text(as_lines(rows_of(name)))
        tables.append(f'[[data.sources]]\nname = "{name}"\npairs = "{name}.jsonl"\n{settings}\n')
    text = run_toml.read_text().replace('pairs = "pairs.jsonl"\n', "")
    run_toml.write_text(text.replace("[llm]\n", "".join(tables) + "[llm]\n", 1))
    return run_toml


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
