import os
import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.retrieval.bm25 import Words


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("english", {"the": [], "houses": ["hous"]}),
        ("en", {"houses": ["hous"]}),
        ("german", {"und": [], "häuser": ["haus"]}),
        ("finnish", {"ja": ["ja"], "talossa": ["talo"]}),  # a stemmer, and no stop words
        ("klingon", {"the": ["the"], "houses": ["houses"]}),
    ],
)
def test_languages(language: str, words: dict[str, list[str]]) -> None:
    take_apart = Words(language)
    for text, expected in words.items():
        (numbers,), names = take_apart([text])
        assert [names[number] for number in numbers] == expected


def test_jax_is_not_started(tmp_path: Path) -> None:
    """Where it is installed, bm25s starts it, and it takes three quarters of a GPU's memory for itself."""
    (tmp_path / "jax.py").write_text("raise SystemExit('started')")
    code = "import sys, multigrain.retrieval.bm25; assert 'jax' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
