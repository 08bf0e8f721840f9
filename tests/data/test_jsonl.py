import ast
import errno
import gzip
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.data.field_checks import text_field
from multigrain.data.jsonl import read_objects
from multigrain.errors import DataError
from multigrain.files import write_atomic, write_objects

texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, as each writes its file anew."""
    return tmp_path_factory.mktemp("jsonl")


@given(st.lists(st.dictionaries(texts, json_values, max_size=3), max_size=5))
def test_objects_survive_the_file(folder: Path, objects: list[dict[str, Any]]) -> None:
    path = folder / "file.jsonl"
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
        (b'{"a": 1}\n[1, 2]\n', r"line 2: found a JSON list; wanted an object"),
        (b"[1, 2]\n", r"line 1: found a JSON array that holds int; wanted objects"),
        (b'["q", "p"]\n["w", "r"]\n', r"line 1: found a JSON array that holds str; wanted objects.* one object"),
        (b'[["q", "p"], ["w", "r"]]\n', r"line 1: found a JSON array that holds list; wanted objects"),
        (b'[{"a": 1},\n {"b": }]\n', r"line 2: not JSON \(Expecting value: column 8\)"),
        (b'[{"a": 1}, {"b": "cut', r"line 1: not JSON \(Unterminated string starting at: column 18\)"),
        (b'{"a": 1}\n{"b": "cut\n', r"line 2: not JSON \(Invalid control character at: column 11\)"),
        (b'[{"a": 1},\n', r"the JSON array has no end"),
        (b'[{"a": 1}]\n[{"a": 2}]\n', r"something follows the JSON array"),
        (b'{"a": "\xff"}\n', r"line 1: not UTF-8 \(byte 8 of the line\)"),
        (b'[{"a": 1},\n{"a": "\xff"}]\n', r"line 2: not UTF-8 \(byte 8 of the line\)"),
        ('{"a": 1}'.encode("utf-16"), r"line 1: not UTF-8"),
        (b"query,positive\na,b\n", r"begins with 'query,positive', which is not a JSON object. Give .* per line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        list(read_objects(path))


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n\n{"a": 2}\n \r\n',
        b'\xef\xbb\xbf\n\n{"a": 1}\n{"a": 2}',
        b'[{"a": 1}, {"a": 2}]',
        b'\xef\xbb\xbf[\n  {\n    "a": 1\n  },\n  {\n    "a": 2\n  }\n]\n',
        b'{\n  "a": 1\n}\n{\n  "a": 2\n}\n',
        b'{"a": 1},\n{"a": 2},\n',
    ],
)
@pytest.mark.parametrize("name", ["file.jsonl", "file.json", "file.json.gz"])
def test_blank_lines_arrays_and_objects_over_several_lines(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [fields for _, fields in read_objects(path)] == [{"a": 1}, {"a": 2}]


def test_an_object_of_an_array_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('[\n  {"a": "\\ud800 [1,\\n2]"},\n\n  {\n    "b": 1}\n]')
    assert list(read_objects(path)) == [(2, {"a": "? [1,\n2]"}), (4, {"b": 1})]


def test_lines_are_streamed_and_what_is_read_whole_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multigrain.data.jsonl.LARGEST_WHOLE", 30)
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}\n' * 10 + "no JSON")
    objects = read_objects(path)
    assert [next(objects) for _ in range(10)][-1] == (10, {"a": 1})
    path.write_text("[" + '{"a": 1},\n' * 10 + "]")
    with pytest.raises(DataError, match="larger than .* read as a whole. Give a file of JSON lines"):
        next(read_objects(path))


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("p.csv", r"pandas.read_csv\('.*p.csv'\).to_json\('.*p.jsonl', orient='records', lines=True\)"),
        ("p.CSV.gz", r"pandas.read_csv\('.*p.CSV.gz'\).to_json\('.*p.jsonl'"),
        ("p.tsv", r"pandas.read_csv\('.*p.tsv', sep='\\t'\)"),
        ("p.xlsx", r"pandas.read_excel\("),
        ("p.parquet", r"pandas.read_parquet\("),
    ],
)
def test_a_table_is_named_with_the_command_that_converts_it(tmp_path: Path, name: str, reader: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"query,positive\n") if name.endswith(".gz") else b"PK\x03\x04\xff")
    with pytest.raises(DataError, match=f"wanted JSON lines. Convert it: python -c .*{reader}"):
        list(read_objects(path))


@pytest.mark.parametrize("name", ["it's.csv", 'a "b" $HOME `c`.csv', "plain.csv"])
def test_the_command_that_converts_works_for_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"query,positive\n")
    with pytest.raises(DataError) as caught:
        list(read_objects(tmp_path / name))
    command = str(caught.value).partition("Convert it: ")[2]
    shown = subprocess.run(["sh", "-c", f'python() {{ printf %s "$2"; }}; {command}'], capture_output=True, check=True)
    values = {node.value for node in ast.walk(ast.parse(shown.stdout)) if isinstance(node, ast.Constant)}
    assert {str(tmp_path / name), str(tmp_path / name.replace(".csv", ".jsonl"))} <= values


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_objects(tmp_path / "absent.jsonl"))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:20])
    with pytest.raises(DataError, match="not a complete gzip file"):
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
