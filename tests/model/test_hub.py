"""Models of the hub, asked of a server on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from multigrain.config import load_config
from multigrain.errors import ConfigError
from multigrain.pipeline.preflight import require


class Hub(BaseHTTPRequestHandler):
    """Files of the repository org/tiny, and other answers of a hub."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        _, owner, name, *rest = self.path.split("/")
        self.asked.append(self.path)
        status, code = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (500, "")}.get(
            owner, (404, "EntryNotFound" if (owner, name) == ("org", "tiny") else "RepoNotFound")
        )
        content = self.files.get("/".join(rest[2:])) if (owner, name) == ("org", "tiny") else None
        self.send_response(200 if content is not None else status)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None and code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if content is not None and self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD  # noqa: N815 (the host's own name)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, and an empty cache."""
    Hub.asked, Hub.files = [], {"config.json": (tiny_encoder / "config.json").read_bytes()}
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", here := f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gated/model", "gated/model is gated: accept its terms at http://127.0.0.1"),
        ("private/model", "no such model at http://127.0.0.1.*/private/model; if it is private"),
        ("nobody/model", "nobody/model: no such folder, and no such model at"),
        ("broken/model", "broken/model cannot be looked up at .*500"),
    ],
)
def test_what_the_hub_says(name: str, message: str, hub: type[Hub], run_toml: Path) -> None:
    with pytest.raises(ConfigError, match=f"^grading.judge_model: .*{message}"):
        require(load_config(run_toml, [f"grading.judge_model={name}"]))


def test_a_hub_that_is_not_there(hub: type[Hub], run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    with pytest.raises(ConfigError, match="the hub cannot be reached .*hf download some/model"):
        require(load_config(run_toml, ["model.base=some/model"]))


def test_a_model_of_the_hub_is_known_by_its_small_files_and_asked_for_once(hub: type[Hub], run_toml: Path) -> None:
    config = load_config(run_toml, ["model.base=org/tiny", "model.anchor.layers=[5]"])
    with pytest.raises(ConfigError, match="there is no attention layer 5; the base has 2"):
        require(config)
    asked = len(hub.asked)
    with pytest.raises(ConfigError, match="there is no attention layer 5"):
        require(config)
    assert asked == len(hub.asked) > 0
    assert not any("safetensors" in path for path in hub.asked)


def test_a_model_of_the_hub_with_code_of_its_own(hub: type[Hub], run_toml: Path) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "new_type", "auto_map": {"AutoModel": "m.M"}}).encode()
    with pytest.raises(ConfigError, match='transformers knows no architecture "new_type"; it has code of its own'):
        require(load_config(run_toml, ["model.base=org/tiny"]))


def test_weights_that_no_one_may_fetch(hub: type[Hub], run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(run_toml, ["model.base=org/tiny"])
    require(config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="org/tiny cannot be loaded: there is no weight file in .*snapshots"):
        require(config)
