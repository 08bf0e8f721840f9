"""The notebook runs in a real kernel."""

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="pip install 'multigrain[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'multigrain[dev]'")
    nbformat = pytest.importorskip("nbformat")
    for name in ("own_pairs.jsonl", "own_corpus.jsonl"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / "own_pairs.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Library-Guest" in printed
    assert (tmp_path / "runs" / "notebook" / "model" / "modules.json").is_file()
