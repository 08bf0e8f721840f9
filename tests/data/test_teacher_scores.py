"""Scores of a teacher, kept in files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multigrain.data.teacher_scores import TeacherScores
from multigrain.errors import RunError

PAIRS = [("q", "a"), ("q", "b"), ("r", "a"), ("q", "a")]


class Teacher:
    """Scores by length of query and text, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: list[tuple[str, str]]) -> list[float]:
        self.asked.append(pairs)
        return [10 * len(query) + len(text) for query, text in pairs]


def kept(folder: Path, teacher: Callable[[list[tuple[str, str]]], list[float]], made_from: str = "x") -> TeacherScores:
    return TeacherScores(folder, made_from, lambda: teacher)


def test_each_query_and_text_is_asked_about_once(tmp_path: Path) -> None:
    teacher = Teacher()
    scores = kept(tmp_path, teacher)
    assert scores.scores([]).tolist() == []
    assert scores.scores([("q", "a"), ("qq", "abc"), ("q", "a")]).tolist() == [11, 23, 11]
    assert scores.scores([("qq", "abc"), ("qa", "bc")]).tolist() == [23, 22]
    again = kept(tmp_path, teacher)
    assert again.scores([("qa", "bc"), ("r", "ab"), ("q", "a")]).tolist() == [22, 12, 11]
    assert teacher.asked == [[("q", "a"), ("qq", "abc")], [("qa", "bc")], [("r", "ab")]]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"00000{n}.parquet" for n in range(3)]


def test_the_teacher_is_not_loaded_where_all_is_known(tmp_path: Path) -> None:
    kept(tmp_path, Teacher()).scores(PAIRS)

    def never() -> Teacher:
        raise AssertionError

    assert len(TeacherScores(tmp_path, "x", never).scores(PAIRS)) == 4


def test_scores_of_another_teacher_and_damaged_files_are_asked_for_again(tmp_path: Path) -> None:
    kept(tmp_path, Teacher()).scores(PAIRS)
    other = Teacher()
    kept(tmp_path, other, "y").scores(PAIRS)
    assert len(other.asked) == 1
    (tmp_path / "000000.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "vectors.bin").write_bytes(b"of the same folder")
    kept(tmp_path, other, "y").scores(PAIRS)
    assert len(other.asked) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.parquet", "vectors.bin"]


def test_a_teacher_that_fails_leaves_what_was_scored_before(tmp_path: Path) -> None:
    teacher = Teacher()
    kept(tmp_path, teacher).scores(PAIRS)

    def failing(pairs: list[tuple[str, str]]) -> list[float]:
        raise MemoryError

    with pytest.raises(MemoryError):
        kept(tmp_path, failing).scores([*PAIRS, ("new", "text")])
    assert kept(tmp_path, teacher).scores(PAIRS).tolist() == [11, 11, 11, 11]
    assert len(teacher.asked) == 1


def test_what_is_no_number_is_refused_and_not_kept(tmp_path: Path) -> None:
    for wrong in (np.nan, np.inf):
        scores = kept(tmp_path, lambda pairs, wrong=wrong: [0.5] * (len(pairs) - 1) + [wrong])  # type: ignore[misc]
        with pytest.raises(RunError, match=r"training.teacher: it returned no number for the query 'r' and the text"):
            scores.scores(PAIRS)
    assert not list(tmp_path.iterdir())
