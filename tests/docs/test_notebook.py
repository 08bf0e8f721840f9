"""The notebook runs in a real kernel."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import warm

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = '"steps": 8'


def cells() -> Iterator[str]:
    """Yield the code of the notebook; a quarter of the training is enough."""
    notebook = json.loads((EXAMPLES / "own_pairs.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(STEPS in cell for cell in code) == 1
    yield from (cell.replace(STEPS, '"steps": 2') for cell in code)


def serve_kernel(connection: str, folder: str) -> None:
    """Be a kernel that works in a folder, until it is told to end."""
    from ipykernel.kernelapp import launch_new_instance

    os.chdir(folder)
    os.environ["IPYTHONDIR"] = str(Path(folder, "ipython"))
    launch_new_instance(argv=["-f", connection])


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    """The client of a kernel that has no imports to wait for."""
    pytest.importorskip("ipykernel", reason="pip install 'multigrain[dev]'")
    jupyter_client = pytest.importorskip("jupyter_client", reason="pip install 'multigrain[dev]'")
    connection, _ = jupyter_client.write_connection_file(str(tmp_path / "kernel.json"))
    process = warm.fork(serve_kernel, connection, str(tmp_path))
    client = jupyter_client.BlockingKernelClient(connection_file=connection)
    client.load_connection_file()
    client.hb_channel.time_to_dead = 60.0  # seconds: the machine may be busy
    client.start_channels()
    try:
        client.wait_for_ready(timeout=300)
        yield client
    finally:
        client.stop_channels()
        process.kill()
        process.join()


def test_the_notebook_runs(tmp_path: Path, kernel: Any) -> None:
    for name in ("own_pairs.jsonl", "own_corpus.jsonl"):
        shutil.copy(EXAMPLES / name, tmp_path)
    printed: list[str] = []
    for cell in cells():
        reply = kernel.execute_interactive(
            cell, timeout=600, output_hook=lambda message: printed.append(message["content"].get("text", ""))
        )
        assert reply["content"]["status"] == "ok", reply["content"]
    assert "Library-Guest" in "".join(printed)
    assert (tmp_path / "runs" / "notebook" / "model" / "modules.json").is_file()
