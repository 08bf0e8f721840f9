import errno
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.errors import DataError
from multigrain.jsonl import read_objects, text_field, write_atomic, write_objects

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values), max_size=5))
def test_objects_survive_the_file(tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "file.jsonl"
    assert write_objects(path, objects) == len(objects)
    assert [fields for _, fields in read_objects(path)] == objects


def test_half_surrogates_become_question_marks(tmp_path: Path) -> None:
    """JSON can hold them as escapes; UTF-8, and so tokenizers, cannot."""
    path = tmp_path / "file.jsonl"
    path.write_bytes(rb'{"a": ["x \ud800", "\uD83D\uDE00"]}')
    assert [fields for _, fields in read_objects(path)] == [{"a": ["x ?", "\N{GRINNING FACE}"]}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": \n', r"file.jsonl, line 2: not JSON"),
        (b"[1, 2]\n", r"line 1: found a JSON list; wanted an object"),
        (b'{"a": 1}\n\n', r"line 2: empty line"),
        (b'{"a": "\xff"}\n', r"line 1: not UTF-8 \(byte 8 of the line\)"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        list(read_objects(path))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_objects(tmp_path / "absent.jsonl"))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(read_objects(cut))


def test_gzip_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"a": 1}\n'))
    assert list(read_objects(path)) == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"q": "x"}, 'no field "query"; fields found: "q"'),
        ({"query": 3}, 'field "query" is 3; wanted text'),
        ({"query": " "}, 'field "query" is empty'),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=f"pairs.jsonl, line 7: {expected}"):
        text_field(fields, "query", Path("pairs.jsonl"), 7)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_fails_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_objects(path, [{"old": 1}])

    def broken() -> Iterator[dict[str, Any]]:
        yield {"new": 1}
        raise ValueError("the source has dried up")

    with pytest.raises(ValueError, match="dried up"):
        write_objects(path, broken())
    assert path.read_text() == '{"old": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]
