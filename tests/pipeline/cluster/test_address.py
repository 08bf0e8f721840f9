"""What is wrong with an address or an installation is told in one message, within a time limit; Ray is not needed."""

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multigrain.cli.main import main
from multigrain.errors import ConfigError
from multigrain.pipeline.cluster import address as module
from multigrain.pipeline.cluster.address import require_answer


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Listen, and answer the first connection; None to stay silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer or b"")

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_of_grpc_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        require_answer(address)
    with server(b"HTTP/1.1 400 Bad Request") as address, pytest.raises(ConfigError, match="is no Ray cluster"):
        require_answer(address)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    begun = time.monotonic()
    with server(None) as address, pytest.raises(ConfigError, match=f"no Ray cluster answers at {address} .timed out"):
        require_answer(address)
    assert time.monotonic() - begun < 2
    with pytest.raises(ConfigError, match="no Ray cluster answers at .*refused"):
        require_answer(address)


@pytest.mark.parametrize("address", ["auto", "head", "ray://head:10001", ":6379", "head:", "head:99999999"])
def test_other_forms_of_an_address_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--address: "):
        require_answer(address)


def test_faults_of_the_command_are_told_before_anything_is_written(
    run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", str(run_toml), "--address", "head:6379"]) == 2
    assert "--address: is only for --engine ray" in capsys.readouterr().err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    assert main(["run", str(run_toml), "--engine", "ray"]) == 2
    assert capsys.readouterr().err.strip() == 'multigrain: ray: not installed. Run: pip install "multigrain[ray]"'
    assert not (run_toml.parent / "runs").exists()


def test_a_run_without_shards_needs_no_cluster(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "multigrain[ray]"')
    assert main(["run", str(finished_run), "--engine", "ray", "--address", "127.0.0.1:1"]) == 0
    assert "no stage that is left uses Ray; all run in this process" in capsys.readouterr().err
