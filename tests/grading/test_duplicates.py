import os
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.grading import duplicates
from multigrain.grading.duplicates import NEAR, NearDuplicates, jaccard


def passage(draw: random.Random, words: int = 60) -> list[str]:
    return ["".join(draw.choices("abcdefghijklmnoprstuvwy", k=draw.randint(2, 9))) for _ in range(words)]


def test_jaccard_by_hand() -> None:
    assert jaccard("abcdefg", "abcdefh") == 2 / 4  # abcde, bcdef of abcde, bcdef, cdefg, cdefh
    assert jaccard("ab", "ab") == 1
    assert jaccard("ab", "cd") == 0
    assert jaccard("", "") == 1


@given(st.text(max_size=40), st.text(max_size=40))
def test_jaccard_is_symmetric_and_bounded(text: str, other: str) -> None:
    assert 0 <= jaccard(text, other) == jaccard(other, text) <= 1
    assert jaccard(text, text) == 1


@given(st.lists(st.text(alphabet="ab \ud800漢", max_size=12), max_size=20))
def test_there_are_no_false_alarms_and_equal_texts_are_found(texts: list[str]) -> None:
    seen = NearDuplicates()
    for number, text in enumerate(texts):
        found = seen.add(text)
        if found is not None:
            assert found < number
            assert jaccard(texts[found], text) >= NEAR
        else:
            assert text not in texts[:number]


def test_texts_that_differ_in_a_word_are_found_among_many() -> None:
    draw = random.Random(1)
    originals = [passage(draw) for _ in range(500)]
    seen = NearDuplicates()
    assert {seen.add(" ".join(words)) for words in originals} == {None}
    found, wanted = 0, 0
    for number, words in enumerate(originals):
        changed = " ".join(["now", *words[1:]])
        if jaccard(changed, " ".join(words)) >= NEAR:
            wanted += 1
            found += seen.add(changed) == number
    assert wanted > 450
    assert found >= 0.97 * wanted


def test_scripts_without_spaces() -> None:
    seen = NearDuplicates()
    first = "治疗通常持续两周，可以在家中进行，但是病人每天必须按时服药，并且每周去看一次医生，以便及时发现副作用。" * 2
    assert seen.add(first) is None
    assert (
        seen.add("天气预报说明天下午会下雨，请记得带伞，并且早一点出门，以免路上堵车而迟到，影响当天的工作安排。")
        is None
    )
    assert seen.add(first + "完") == 0


def test_a_duplicate_of_a_duplicate_is_compared_with_the_first_alone() -> None:
    words = passage(random.Random(2))
    seen = NearDuplicates(threshold=0.8)
    steps = [" ".join(["now"] * changed + words[changed:]) for changed in (0, 8, 14)]
    assert jaccard(steps[1], steps[2]) >= 0.8 > jaccard(steps[0], steps[2])
    assert [seen.add(step) for step in steps] == [None, 0, None]


def test_boilerplate_does_not_make_it_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "FULLEST", 20)
    draw = random.Random(3)
    frame = passage(draw, 60)
    seen = NearDuplicates()
    start = time.process_time()
    texts = [" ".join(frame + passage(draw, 20)) for _ in range(200)]
    assert {seen.add(text) for text in texts} == {None}
    assert time.process_time() - start < 60
    assert max(map(len, seen._buckets.values())) == 20
    assert seen.add(texts[-1]) == len(texts) - 1, "an exact copy is found even where the buckets are full"


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_every_process_finds_the_same(hash_seed: str) -> None:
    script = (
        "from multigrain.grading.duplicates import _bands, _shingles\n"
        "print([band.hex() for band in _bands(_shingles('the cat sleeps on the old chair'), 7)][0])"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    from multigrain.grading.duplicates import _bands, _shingles

    assert result.stdout.strip() == _bands(_shingles("the cat sleeps on the old chair"), 7)[0].hex()
