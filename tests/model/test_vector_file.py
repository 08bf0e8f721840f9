import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.model.encode import PORTION, CachedEncoder
from multigrain.model.vector_file import VectorFile, key_of

KEYS = [key_of(f"text {i}") for i in range(10)]
VECTORS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def filled(path: Path) -> VectorFile:
    file = VectorFile(path, "model")
    file.append(KEYS[:6], VECTORS[:6])
    file.append(KEYS[6:], VECTORS[6:])
    return file


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "below" / "vectors.bin"
    for file in (filled(path), VectorFile(path, "model")):
        np.testing.assert_array_equal(file.read([KEYS[8], KEYS[0], KEYS[8]]), VECTORS[[8, 0, 8]])
        assert file.read([]).size == 0
        assert key_of("x") not in file
        with pytest.raises(KeyError):
            file.read([key_of("x")])


@given(st.integers(0, 350))
def test_a_cut_file_keeps_its_whole_records_and_goes_on(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "vectors.bin"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    file = VectorFile(path, "model")
    there = [key for key in KEYS if key in file]
    assert there == KEYS[: max(0, (280 - cut) // 28)]
    if there:
        np.testing.assert_array_equal(file.read(there), VECTORS[: len(there)])
    missing = [i for i, key in enumerate(KEYS) if key not in file]
    if missing:
        file.append([KEYS[i] for i in missing], VECTORS[missing])
    for again in (file, VectorFile(path, "model")):
        np.testing.assert_array_equal(again.read(KEYS), VECTORS)


def test_a_file_of_another_model_is_replaced_and_whoever_holds_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    old, other = filled(path), VectorFile(path, "another")
    assert KEYS[0] not in other
    other.append(KEYS[:1], np.ones((1, 5), dtype=np.float32))
    np.testing.assert_array_equal(old.read(KEYS), VECTORS)
    assert VectorFile(path, "another").read(KEYS[:1]).shape == (1, 5)


def test_two_that_append_to_one_file_do_not_hurt_each_other(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    first = filled(path)
    second = VectorFile(path, "model")
    first.append([key_of("a")], VECTORS[:1])
    second.append([key_of("b")], VECTORS[1:2])
    first.append([key_of("c")], VECTORS[2:3])
    np.testing.assert_array_equal(second.read([*KEYS, key_of("b")])[-1], VECTORS[1])
    found = VectorFile(path, "model").read([key_of("a"), key_of("b"), key_of("c")])
    np.testing.assert_array_equal(found, VECTORS[:3])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_may_only_be_read_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    path = tmp_path / "vectors.bin"
    if is_there:
        filled(path)
    before = path.read_bytes() if is_there else None
    opened = Path.open

    def read_only(self: Path, mode: str = "r", **options: Any) -> Any:
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", read_only)
    file = VectorFile(path, "model")
    file.append([key_of("new")], VECTORS[:1])
    np.testing.assert_array_equal(file.read([key_of("new")]), VECTORS[:1])
    if is_there:
        np.testing.assert_array_equal(file.read(KEYS), VECTORS)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        VectorFile(tmp_path / "vectors.bin", "model").append(KEYS, VECTORS)


class CountingModel:
    """The part of a model that the encoder uses. Its vectors tell the batch, as padding does with a real one's."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.encoded: list[str] = []
        self.prompts: dict[str, str] = {}
        self.fail_after = fail_after

    def get_embedding_dimension(self) -> int:
        return 2

    def encode(self, texts: list[str], **_: Any) -> Any:
        if self.fail_after is not None and len(self.encoded) >= self.fail_after:
            raise KeyboardInterrupt
        self.encoded += texts
        return np.array([[len(text), len(texts) + len(texts[0])] for text in texts], dtype=np.float32)


def test_an_interrupted_encoding_goes_on_where_it_was_to_the_last_bit(tmp_path: Path) -> None:
    texts = [f"text {'x' * (i % 70)} {i}" for i in range(2 * PORTION + 100)]

    def encoder(model: CountingModel, name: str) -> CachedEncoder:
        return CachedEncoder(lambda: model, "model", tmp_path / name, "x", {})  # type: ignore[arg-type, return-value]

    expected = encoder(CountingModel(), "whole.bin")(texts, "document")
    with pytest.raises(KeyboardInterrupt):
        encoder(CountingModel(PORTION + 300), "cut.bin")(texts, "document")
    rest = CountingModel()
    np.testing.assert_array_equal(encoder(rest, "cut.bin")(texts, "document"), expected)
    assert len(rest.encoded) == PORTION + 100
