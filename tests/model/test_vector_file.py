import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.model import vector_file
from multigrain.model.encode import PORTION, CachedEncoder
from multigrain.model.vector_file import VectorFile, key_of

KEYS = [key_of(f"text {i}") for i in range(10)]
VECTORS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float16).astype(np.float32)
"""Numbers that the file's rounding leaves as they are."""


def read(file: VectorFile, keys: Sequence[bytes]) -> Any:
    return file.read(file.rows_of(keys))


def filled(path: Path) -> VectorFile:
    file = VectorFile(path, "model")
    file.append(KEYS[:6], VECTORS[:6])
    file.append(KEYS[6:], VECTORS[6:])
    return file


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "below" / "vectors.bin"
    for file in (filled(path), VectorFile(path, "model")):
        np.testing.assert_array_equal(read(file, [KEYS[8], KEYS[0], KEYS[8]]), VECTORS[[8, 0, 8]])
        assert read(file, []).size == 0
        assert file.rows_of([key_of("x"), KEYS[9], key_of("y")]).tolist() == [-1, 9, -1]
        with pytest.raises(KeyError):
            read(file, [key_of("x")])


@given(st.integers(0, 300))
def test_a_cut_file_keeps_its_whole_records_and_goes_on(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "vectors.bin"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    file = VectorFile(path, "model")
    there = max(0, (220 - cut) // 22)
    assert file.rows_of(KEYS).tolist() == [*range(there), *[-1] * (10 - there)]
    if there:
        np.testing.assert_array_equal(read(file, KEYS[:there]), VECTORS[:there])
    file.append(KEYS[there:], VECTORS[there:])
    for again in (file, VectorFile(path, "model")):
        np.testing.assert_array_equal(read(again, KEYS), VECTORS)


def test_a_file_of_another_model_is_replaced_and_whoever_holds_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    old, other = filled(path), VectorFile(path, "another")
    assert (other.rows_of(KEYS) < 0).all()
    other.append(KEYS[:1], np.ones((1, 5), dtype=np.float32))
    np.testing.assert_array_equal(read(old, KEYS), VECTORS)
    assert read(VectorFile(path, "another"), KEYS[:1]).shape == (1, 5)


def test_a_file_of_float32_as_earlier_versions_wrote_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    header = json.dumps({"model": "model", "dimension": 3}).encode() + b"\n"
    path.write_bytes(header + b"".join(key + row.tobytes() for key, row in zip(KEYS, VECTORS, strict=True)))
    file = VectorFile(path, "model")
    assert (file.rows_of(KEYS) < 0).all()
    file.append(KEYS, VECTORS)
    assert path.stat().st_size == len(path.read_bytes().partition(b"\n")[0]) + 1 + 10 * (16 + 3 * 2)
    np.testing.assert_array_equal(read(VectorFile(path, "model"), KEYS), VECTORS)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\n",
        b"\xff\x00",
        b'{"model": "model", "dimension": 3, "dtype": "float16"}',
        b'{"model": "model", "dimension": -1, "dtype": "float16"}\n' + bytes(100),
        b'{"model": "model", "dimension": "3", "dtype": "float16"}\n' + bytes(100),
        b'{"model": "model", "dimension": 3, "dtype": "float8"}\n' + bytes(100),
        b"[1]\n",
    ],
)
def test_a_damaged_file_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(damaged)
    file = VectorFile(path, "model")
    assert (file.rows_of(KEYS) < 0).all()
    file.append(KEYS, VECTORS)
    np.testing.assert_array_equal(read(VectorFile(path, "model"), KEYS), VECTORS)


ALIKE = [bytes([first, *[0] * 14, last]) for first in range(3) for last in range(3)]
"""Keys of which the index sees the same word, some of them alike in their first number too."""


@given(st.lists(st.lists(st.sampled_from([*KEYS, *ALIKE]), max_size=9), max_size=12), st.booleans())
def test_the_index_finds_what_a_dict_finds(
    tmp_path_factory: Any, portions: list[list[bytes]], is_reopened: bool
) -> None:
    """Portions of any size, keys that look alike to the index, and the same key again, as other processes append it."""
    path = tmp_path_factory.mktemp("index") / "vectors.bin"
    file, rows = VectorFile(path, "model"), dict[bytes, int]()
    values: list[float] = []
    for portion in portions:
        for key in portion:
            rows.setdefault(key, len(values))
            values.append(float(len(values)))
        file.append(portion, np.array(values[len(values) - len(portion) :], dtype=np.float32).reshape(-1, 1))
        file = VectorFile(path, "model") if is_reopened else file
    asked = [*ALIKE, *KEYS, *ALIKE]
    expected = [rows.get(key, -1) for key in asked]
    assert file.rows_of(asked).tolist() == expected
    known = [key for key in asked if key in rows]
    np.testing.assert_array_equal(read(file, known).ravel(), [values[rows[key]] for key in known])


def test_a_large_file_is_opened_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of many records, read a few at a time, is that of the file that wrote them."""
    monkeypatch.setattr(vector_file, "READ_AT_ONCE", 1000)
    keys = [key_of(str(number)) for number in range(5000)]
    vectors = np.arange(5000, dtype=np.float32)[:, None] % 2048  # whole numbers that float16 holds
    file = VectorFile(tmp_path / "vectors.bin", "model")
    for start in range(0, 5000, 700):
        file.append(keys[start : start + 700], vectors[start : start + 700])
    for found in (file, VectorFile(tmp_path / "vectors.bin", "model")):
        np.testing.assert_array_equal(found.rows_of(keys[::-1]), np.arange(5000)[::-1])
        np.testing.assert_array_equal(read(found, keys[::-1]), vectors[::-1])


def test_two_that_append_to_one_file_do_not_hurt_each_other(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    first = filled(path)
    second = VectorFile(path, "model")
    first.append([key_of("a")], VECTORS[:1])
    second.append([key_of("b")], VECTORS[1:2])
    first.append([key_of("c")], VECTORS[2:3])
    np.testing.assert_array_equal(read(second, [*KEYS, key_of("b")])[-1], VECTORS[1])
    found = read(VectorFile(path, "model"), [key_of("a"), key_of("b"), key_of("c")])
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
    np.testing.assert_array_equal(read(file, [key_of("new")]), VECTORS[:1])
    if is_there:
        np.testing.assert_array_equal(read(file, KEYS), VECTORS)
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
