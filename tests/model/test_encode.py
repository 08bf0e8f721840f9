"""The service that encodes: its precision, the length of its vectors, and several devices at once."""

import json
import multiprocessing
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from multigrain.config import load_config
from multigrain.errors import ConfigError
from multigrain.model import encode, gpu_pool
from multigrain.model.encode import CachedEncoder
from multigrain.model.load import load_base
from multigrain.pipeline.encoders import base_encoder, judge_encoder
from multigrain.pipeline.run_dir import RunDir
from tests import warm
from tests.conftest import ROUNDED

TEXTS = [f"the cat {'near the tree ' * (number % 5)}{number}" for number in range(40)]


@pytest.fixture
def can_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """A machine without a GPU, whose CPU has instructions for bf16, or has none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda can: monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: can)


def encoder(model: Path, path: Path, precision: Any) -> CachedEncoder:
    return CachedEncoder(lambda: load_base(str(model)), "m", path, "x", {}, precision, "grading.precision")


def test_auto_is_what_the_hardware_computes_and_keeps_vectors_apart(
    tiny_encoder: Path, tmp_path: Path, can_bf16: Callable[[bool], None]
) -> None:
    path = tmp_path / "vectors.bin"
    vectors, unkept = {}, {}
    for can, precision in ((False, "fp32"), (True, "bf16")):
        can_bf16(can)
        auto = encoder(tiny_encoder, path, "auto")
        vectors[precision] = auto(TEXTS, "document")
        unkept[precision] = auto.unkept(TEXTS, "document")
        assert auto.precision == precision
        assert json.loads(path.read_bytes().partition(b"\n")[0])["model"] == f"m, {precision}"
        size = path.stat().st_size
        np.testing.assert_array_equal(encoder(tiny_encoder, path, precision)(TEXTS, "query"), vectors[precision])
        assert path.stat().st_size == size  # nothing was encoded anew
    exact = load_base(str(tiny_encoder)).encode(TEXTS, normalize_embeddings=True)
    assert np.abs(unkept["fp32"] - exact).max() < 1e-6 < np.abs(unkept["bf16"] - exact).max()
    for precision, not_rounded in unkept.items():
        assert np.abs(vectors[precision] - not_rounded).max() < ROUNDED
        assert (vectors[precision] * exact).sum(axis=1).min() > 0.9999


def test_bf16_on_a_cpu_without_it_is_said_once_and_on_a_gpu_refused(
    tiny_encoder: Path,
    tmp_path: Path,
    can_bf16: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    can_bf16(False)
    embed = encoder(tiny_encoder, tmp_path / "vectors.bin", "bf16")
    embed(TEXTS[:2], "document")
    embed(TEXTS[2:4], "document")
    assert capsys.readouterr().err.count('grading.precision = "fp32" is faster') == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="grading.precision: found bf16; this GPU does not support it"):
        encoder(tiny_encoder, tmp_path / "vectors.bin", "bf16")(TEXTS, "document")


def test_vectors_have_length_1_though_they_are_kept_rounded(tiny_encoder: Path, tmp_path: Path) -> None:
    embed = encoder(tiny_encoder, tmp_path / "vectors.bin", "fp32")
    vectors = embed(TEXTS, "document")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=3e-7)
    np.testing.assert_array_equal(embed(TEXTS[7:8], "document"), vectors[7:8])
    assert embed([], "document").size == 0


def test_a_vector_of_zeros_or_of_no_numbers_stays_one(tmp_path: Path) -> None:
    class Broken:
        prompts: dict[str, str] = {}  # noqa: RUF012

        def get_embedding_dimension(self) -> int:
            return 3

        def encode(self, texts: list[str], **_: Any) -> Any:
            return np.array([[float(text)] * 3 for text in texts], dtype=np.float32)

    embed = CachedEncoder(Broken, "m", tmp_path / "vectors.bin", "x", {})  # type: ignore[arg-type]
    zeros, nothing = embed(["0", "nan"], "document")
    assert zeros.tolist() == [0, 0, 0] and np.isnan(nothing).all()


def test_what_is_not_kept_is_exact_and_leaves_the_file_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    embed = encoder(tiny_encoder, tmp_path / "vectors.bin", "fp32")
    exact = load_base(str(tiny_encoder)).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embed.unkept(TEXTS, "query"), exact, atol=1e-6)
    assert not (tmp_path / "vectors.bin").exists()


@pytest.mark.parametrize(
    ("judging", "measuring", "can", "is_shared"),
    [
        ("auto", "auto", True, True),
        ("fp32", "fp32", True, True),
        ("auto", "fp32", False, True),
        ("auto", "fp32", True, False),
        ("bf16", "auto", True, True),
        ("bf16", "auto", False, False),
    ],
)
def test_a_judge_that_is_the_base_serves_again_in_the_same_precision(
    run_toml: Path, can_bf16: Callable[[bool], None], judging: str, measuring: str, can: bool, is_shared: bool
) -> None:
    can_bf16(can)
    more = ["model.max_tokens=64", "grading.judge_max_tokens=64"]
    precisions = [f"grading.precision={judging}", f"evaluation.precision={measuring}"]
    config = load_config(run_toml, [*more, *precisions])
    run_dir = RunDir(config.folder)
    judge_encoder(config, run_dir)(TEXTS, "document")
    base_encoder(config, run_dir)(TEXTS, "document")
    assert run_dir.base_vectors.exists() is not is_shared


# Several devices


def forked_worker(target: Any, args: tuple[Any, ...], daemon: bool) -> Any:
    """It need not import torch, but gets the model as a new interpreter does."""
    device, model, *queues = args
    told = (device, pickle.loads(pickle.dumps(model)), *queues)
    return multiprocessing.get_context("fork").Process(target=target, args=told, daemon=daemon)


def encode_on_two(model: Path, folder: Path) -> None:
    """What is to be killed."""
    encode.PORTION, encode.BATCH_SIZE, gpu_pool._devices = 16, 4, lambda: ["cpu", "cpu"]
    context: Any = SimpleNamespace(Process=forked_worker, Queue=multiprocessing.get_context("fork").Queue)
    torch.multiprocessing.get_context = lambda _: context  # type: ignore[assignment]  # of sentence-transformers
    embed = encoder(model, folder / "vectors.bin", "bf16")
    embed(TEXTS, "document")
    np.save(folder / "pooled.npy", embed.unkept(TEXTS, "document"))
    assert embed._encoder._pool
    print(json.dumps([process.pid for process in embed._encoder._pool["processes"]]), flush=True)
    time.sleep(600)


def is_running(pid: int) -> bool:
    """It is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_several_devices_encode_what_one_does_and_end_after_a_kill(tiny_encoder: Path, tmp_path: Path) -> None:
    """In half precision, which workers must be told of."""
    work = warm.call(encode_on_two, tiny_encoder, tmp_path, printing=tmp_path / "printed")
    wait_until(lambda: "\n" in work.printed()[0] or not work.process.is_alive(), "no vectors yet")
    assert work.process.is_alive(), work.printed()[1]
    workers = json.loads(work.printed()[0])
    assert len(workers) == 2 and all(is_running(pid) for pid in workers)
    work.process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in workers), "the workers live on")
    pooled = np.load(tmp_path / "pooled.npy")
    alone = encoder(tiny_encoder, tmp_path / "vectors.bin", "bf16")
    kept = alone(TEXTS, "document")
    assert "_model" not in vars(alone)  # all of them are in the file
    np.testing.assert_allclose(kept, pooled, atol=ROUNDED)
    np.testing.assert_allclose(alone.unkept(TEXTS, "document"), pooled, atol=1e-6)
    assert np.abs(encoder(tiny_encoder, tmp_path, "fp32").unkept(TEXTS, "document") - pooled).max() > 1e-6


def test_a_pool_is_for_several_gpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_pool._devices() == ["cuda:0", "cuda:1"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert gpu_pool._devices() == []


def test_one_device_needs_no_pool(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pool, "_devices", lambda: ["cuda:0"])
    monkeypatch.setattr("multigrain.model.encode.PORTION", 8)
    embed = encoder(tiny_encoder, tmp_path / "vectors.bin", "fp32")
    embed(TEXTS, "document")
    assert embed._encoder._pool is None
