import random
import time
from collections.abc import Callable

import pytest

from multigrain.grading import surface_leak
from multigrain.grading.surface_leak import LIMIT, Leak, Sample, find_leak

WORDS = "the a of cell liver protein growth mice study patients increased with treatment 12 40.5 DNA in we that".split()
Write = Callable[[random.Random], str]


def passage(draw: random.Random, fewest: int = 30, most: int = 90) -> str:
    words = draw.choices(WORDS, k=draw.randint(fewest, most))
    for at in range(0, len(words), draw.randint(8, 20)):
        words[at] = words[at].capitalize() if at == 0 else words[at] + draw.choice([",", ".", ";"])
    return " ".join(words).rstrip(",.;") + draw.choice(["", "."])


def leak_of(negative: Write, tuples: int = 200, positive: Write = passage, each: int = 4) -> Leak:
    draw = random.Random(11)
    positives = [Sample(str(number), positive(draw)) for number in range(tuples)]
    negatives = [Sample(str(number), negative(draw), str(grade)) for number in range(tuples) for grade in range(each)]
    found = find_leak(positives, negatives)
    assert found is not None
    return found


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("tuples", [100, 400])
def test_texts_of_one_kind_do_not_leak(each: int, tuples: int) -> None:
    found = leak_of(passage, tuples=tuples, each=each)
    assert 0.4 <= found.accuracy <= 0.6
    assert not found.is_found
    assert (found.tuples, set(found.by_label)) == (tuples, {str(grade) for grade in range(each)})


@pytest.mark.parametrize(
    ("negative", "name"),
    [
        (lambda draw: passage(draw, 20, 45), "words"),
        (lambda draw: passage(draw, 55, 62), "words"),  # the same mean: only a range tells
        (lambda draw: passage(draw).rstrip(".") + ".", "ends with a full stop"),
        (lambda draw: passage(draw).lower(), "begins in lower case"),
        (lambda draw: passage(draw).title(), "upper case"),
        (lambda draw: "- " + passage(draw).replace(".", ".\n-"), "list marks"),
        (lambda draw: passage(draw).replace("12", "many").replace("40.5", "few"), "digits"),
        (lambda draw: passage(draw) + "!", "exclamation marks"),
    ],
)
def test_what_is_planted_is_found_and_named(negative: Write, name: str) -> None:
    found = leak_of(negative)
    assert found.accuracy > LIMIT
    assert found.is_found
    assert name in [feature.name for feature in found.features]


def test_means_of_both_sides() -> None:
    found = leak_of(lambda draw: passage(draw, 10, 10))
    words = next(feature for feature in found.features if feature.name == "words")
    assert words.negative == 10
    assert 55 < words.positive < 65
    assert words.accuracy > 0.99


def test_a_leak_of_one_grade_shows_in_its_accuracy() -> None:
    draw = random.Random(3)
    positives = [Sample(str(number), passage(draw)) for number in range(300)]
    negatives = [
        Sample(str(number), passage(draw, 8, 12) if grade == 1 else passage(draw), str(grade))
        for number in range(300)
        for grade in (1, 2, 3, 4)
    ]
    found = find_leak(positives, negatives)
    assert found is not None
    assert found.by_label["1"] > 0.7
    assert max(found.by_label[grade] for grade in "234") < found.by_label["1"] - 0.1


def test_few_tuples_and_tuples_with_one_side_do_not_count() -> None:
    texts = [Sample(str(number), "A text.") for number in range(40)]
    assert find_leak([], []) is None
    assert find_leak(texts[:19], texts) is None
    assert find_leak(texts[:20], texts[20:]) is None
    found = find_leak(texts[:30], texts[5:])
    assert found is not None
    assert (found.tuples, found.accuracy) == (25, 0.5)


def test_it_is_deterministic_fast_and_draws_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(4)
    positives = [Sample(str(number), passage(draw, 10, 30)) for number in range(3200)]
    negatives = [Sample(str(number), passage(draw, 10, 25)) for number in range(3200)]
    start = time.process_time()
    found = find_leak(positives, negatives)
    seconds = time.process_time() - start
    assert found is not None
    assert found.tuples == 3000
    assert seconds < 60
    monkeypatch.setattr(surface_leak, "MOST_TUPLES", 100)
    one, other = (find_leak(iter(positives), iter(negatives)) for _ in range(2))
    assert one is not None
    assert one.tuples == 100
    assert one == other
