"""What language models do wrong, from the request to the tuples: each text is dropped or parked with its reason."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multigrain.config import load_config
from multigrain.data.jsonl import read_candidates, read_tuples
from multigrain.llm.clients.scripted import ScriptedClient
from multigrain.llm.protocol import Answer, Request
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import grade_of

COUNT = 24
FILLER = "brown quick gentle northern silent wooden early narrow golden distant hollow quiet broken simple warm".split()
NOUNS = "harbour village engine orchard letter bridge basket mirror garden market captain teacher window island".split()
LEVELS = {1: 1, 2: 4, 3: 6, 4: 8}
"""For each grade a relevance in tenths that is cut to it."""
OVERRIDES = (
    "synthesis.prompt_style='all-grades'",
    "mining.enabled=false",
    "grading.repairs=0",
    "grading.judge='embedding'",
    "grading.bands=[0.3, 0.5, 0.7]",
    "grading.false_negative_above=0.95",
    "data.held_out=0.1",
)


def sentence(draw: random.Random) -> str:
    words = [f"the {draw.choice(FILLER)} {draw.choice(NOUNS)}" for _ in range(4)]
    return f"{words[0]} was seen from {words[1]} when {words[2]} had left {words[3]}"


def positive_of(number: int) -> str:
    return f"In item{number} {sentence(random.Random(number))}"


def written(number: int, grade: int, level: int, seed: int) -> str:
    return f"Later {sentence(random.Random(f'{number} {grade} {seed}'))} at level{level}"


def embed(texts: Sequence[str], role: Role) -> Vectors:
    """A text that names a level is as relevant to any query, and all others are as relevant as can be."""
    found = [re.search(r"level(\d)", text) for text in texts]
    cosine = np.array([int(level[1]) / 10 if level else 1.0 for level in found])
    return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1).astype(np.float32)


def honest(number: int, seed: int) -> dict[str, str]:
    return {f"grade_{grade}": written(number, grade, level, seed) for grade, level in LEVELS.items()}


def copies(number: int, seed: int) -> str:
    return json.dumps(dict.fromkeys(honest(number, seed), positive_of(number)))


def answers_in_german(number: int, seed: int) -> str:
    text = (
        f"Der Hafen lag still im Morgenlicht, als die Kinder das Dorf verließen und niemand an Nummer {number} dachte"
    )
    return json.dumps({key: f"{text} ({place})." for place, key in enumerate(honest(number, seed))})


def declines(number: int, seed: int) -> str:
    return "I'm sorry, but I can't help with that request."


def declines_in_form(number: int, seed: int) -> str:
    return json.dumps(dict.fromkeys(honest(number, seed), "I'm sorry, but I cannot write such a passage."))


def writes_three(number: int, seed: int) -> str:
    texts = honest(number, seed)
    del texts["grade_3"]
    return json.dumps(texts)


def leaves_one_empty(number: int, seed: int) -> str:
    return json.dumps(honest(number, seed) | {"grade_2": "  "})


def breaks_off(number: int, seed: int) -> str:
    return json.dumps(honest(number, seed))[:-30]


def repeats_itself(number: int, seed: int) -> str:
    texts = honest(number, seed)
    return json.dumps(dict.fromkeys(texts, f"Item {number} says {'that it is so and ' * 12}"))


def never_ends(number: int, seed: int) -> str:
    return json.dumps(dict.fromkeys(honest(number, seed), "and so on " * 500)).removesuffix('"}')


def swaps(number: int, seed: int) -> str:
    texts = honest(number, seed)
    return json.dumps(dict(zip(texts, reversed(texts.values()), strict=True)))


def says_all_alike(number: int, seed: int) -> str:
    return json.dumps({f"grade_{grade}": written(number, grade, 6, seed) for grade in LEVELS})


def says_what_is_right(number: int, seed: int) -> str:
    return json.dumps({f"grade_{grade}": written(number, grade, 9, seed).replace("level9", "") for grade in LEVELS})


Fault = Callable[[int, int], str]


@pytest.fixture
def faulty_run(
    run_toml: Path, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Fault], tuple[RunDir, set[str]]]:
    """A run whose language model has the fault with every second pair; the folder, and the pairs it had it with."""
    pairs = [{"id": f"p{n}", "query": f"where is item{n}", "positive": positive_of(n)} for n in range(COUNT)]
    write_jsonl("pairs.jsonl", pairs)
    monkeypatch.setattr("multigrain.pipeline.stages.grade.judge_encoder", lambda *_: embed)

    def work(fault: Fault) -> tuple[RunDir, set[str]]:
        async def complete(self: ScriptedClient, request: Request) -> Answer:
            found = re.search(r"Query: where is item(\d+)", request.prompt)
            assert found
            number = int(found[1])
            text = json.dumps(honest(number, request.seed)) if number % 2 else fault(number, request.seed)
            return Answer(text, 1, 1, "stop" if text.endswith(("}", ".")) else "length")

        monkeypatch.setattr(ScriptedClient, "complete", complete)
        config = load_config(run_toml, OVERRIDES)
        verbs.synthesize(config)
        verbs.grade(config)
        run_dir = RunDir(config.folder)
        ids = {pair["id"] for pair in objects(run_dir.train_pairs)}
        for graded in read_tuples(run_dir.tuples):
            assert all(grade_of(each.score, config.grading.bounds) == each.grade for each in graded.negatives)
            if int(graded.id[1:]) % 2:  # the others do not suffer by it
                assert [each.grade for each in graded.negatives] == [1, 2, 3, 4]
                ids.remove(graded.id)
        assert all(int(id[1:]) % 2 == 0 for id in ids)
        assert len(ids) > 5
        return run_dir, ids

    return work


FaultyRun = Callable[[Fault], tuple[RunDir, set[str]]]


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (copies, "copy of the positive"),
        (answers_in_german, "other language"),
        (declines_in_form, "refusal"),
        (repeats_itself, "repeats itself"),
        (says_what_is_right, "false negative"),
    ],
)
def test_a_useless_text_is_dropped_with_its_rule(fault: Fault, rule: str, faulty_run: FaultyRun) -> None:
    run_dir, ids = faulty_run(fault)
    dropped = Counter((record["pair_id"], record["rule"]) for record in objects(run_dir.dropped))
    assert dropped == dict.fromkeys(((id, rule) for id in ids), 4)
    assert json.loads(run_dir.report.read_text())["dropped"] == {rule: 4 * len(ids)}
    assert not {graded.id for graded in read_tuples(run_dir.tuples)} & ids


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (declines, "holds no JSON object"),
        (writes_three, 'no usable "grade_3"'),
        (leaves_one_empty, 'no usable "grade_2"'),
        (breaks_off, "truncated at its token limit"),
        (never_ends, "truncated at its token limit"),
    ],
)
def test_an_answer_that_is_no_use_is_asked_again_and_parked(fault: Fault, detail: str, faulty_run: FaultyRun) -> None:
    """None of its texts gets through, not even those that could be read."""
    run_dir, ids = faulty_run(fault)
    parked = objects(run_dir.parked)
    assert {record["input"] for record in parked} == ids
    assert len(parked) == len(ids)
    assert {record["reason"] for record in parked} <= {"unreadable", "declined", "length"}
    assert all(detail in record["detail"] for record in parked)
    assert not {candidate.pair_id for candidate in read_candidates(run_dir.candidates)} & ids
    assert objects(run_dir.dropped) == []


def test_swapped_grades_are_put_right_by_measure(faulty_run: FaultyRun) -> None:
    run_dir, ids = faulty_run(swaps)
    asked = {candidate.text: candidate.grade for candidate in read_candidates(run_dir.candidates)}
    turned = [graded for graded in read_tuples(run_dir.tuples) if graded.id in ids]
    assert len(turned) == len(ids)
    for graded in turned:
        assert [(each.grade, asked[each.text]) for each in graded.negatives] == [(1, 4), (2, 3), (3, 2), (4, 1)]
    assert objects(run_dir.dropped) == []


def test_four_texts_of_one_grade_leave_one(faulty_run: FaultyRun) -> None:
    run_dir, ids = faulty_run(says_all_alike)
    grades = {graded.id: [each.grade for each in graded.negatives] for graded in read_tuples(run_dir.tuples)}
    assert {id: grades[id] for id in ids} == {id: [3] for id in ids}
    assert Counter(record["rule"] for record in objects(run_dir.dropped)) == {"surplus": 3 * len(ids)}
