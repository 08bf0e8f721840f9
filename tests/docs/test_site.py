"""The site: its generated pages, and a strict build that fetches nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import multigrain
from docs import hooks
from multigrain.cli.parser import VERBS
from multigrain.config import Config
from multigrain.config.faults import keys_of

ROOT = Path(__file__).parents[2]


def test_each_setting_has_a_heading() -> None:
    page = hooks.settings_page()
    assert set(keys_of(Config)) <= set(re.findall(r"\{#(\S+)", page.replace("}", " ")))


def test_each_verb_and_option_is_on_the_page() -> None:
    page = hooks.command_line_page()
    assert [verb for verb in VERBS if f"## {verb} " not in page] == []
    assert "`--retriever` `{dense,bm25,hybrid}`\n:   " in page


def test_each_public_name_is_on_the_page() -> None:
    named = [name for names in hooks.PYTHON.values() for name in names.split()]
    assert sorted(named) == sorted(multigrain.__all__)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "a [b](../getting-started.md#x) [c](../index.md) [d](examples.md#decoder-toml) [e](#f)"),
        (
            "https://example.org/x",
            "[a](https://example.org/x/blob/main/src/y.py) [b](../getting-started.md#x) [c](../index.md) "
            "[d](examples.md#decoder-toml) [e](#f)",
        ),
    ],
)
def test_links_that_leave_the_folder(source: str | None, expected: str) -> None:
    links = "[a](../../src/y.py) [b](../getting-started.md#x) [c](../../README.md#y) "
    links += "[d](../../examples/decoder.toml) [e](#f)"
    block = "\n```python\nf[0](../../x)\n```\n"
    assert hooks.relinked(links + block, "docs/guides/p.md", "guides/p.md", source) == expected + block


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'multigrain[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install 'multigrain[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 25
    fetched = re.compile(r'<(?:script|img|iframe|link)[^>]*(?:src|href)="?(?:https?:)?//[^">]+')
    for path, text in pages.items():
        assert not fetched.findall(text), path
        assert not re.search(r"<p>[^<]*\n[*-] ", text), f"{path.name}: a list without a blank line before it"
    reference = pages[tmp_path / "site" / "reference" / "python.html"]
    assert [name for name in multigrain.__all__ if f'id="multigrain.{name}"' not in reference] == []
