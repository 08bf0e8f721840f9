"""Teachers of a training: their lists and scores, and whole runs with each kind."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from multigrain.config import Config, load_config
from multigrain.data.jsonl import read_documents, read_tuples, write_records
from multigrain.data.mined_candidates import read_mined
from multigrain.data.teacher_scores import TeacherScores
from multigrain.errors import ConfigError, DataError
from multigrain.pipeline import teachers
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.train import _planned
from multigrain.pipeline.verbs import run
from multigrain.records import folded
from multigrain.training.curriculum import Curriculum
from multigrain.training.teacher_lists import ScoredList
from tests.conftest import ROUNDED, write_run
from tests.kept_folder import KeptFolder

PLAIN = ["training.phases=[]", "training.steps=4", "evaluation.tasks=['held-out']", "mining.per_grade=3"]
FUSED = [*PLAIN, "training.loss='distill'", "training.teacher.kind='fused'", "training.teacher.documents=6"]


UP_TO_GRADE = ["data", "synthesize", "grade"]


def planned(config: Config) -> Curriculum:
    run_dir = RunDir(config.folder)
    return _planned(config, run_dir, list(read_tuples(run_dir.tuples)))[0]


@pytest.fixture(scope="module")
def kept_graded(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> KeptFolder:
    folder = tmp_path_factory.mktemp("graded")
    config = load_config(write_run(folder, tiny_encoder), FUSED)
    run_stages(config, UP_TO_GRADE, force=False)
    return KeptFolder(folder)


@pytest.fixture
def graded_toml(kept_graded: KeptFolder) -> Path:
    """The file of a run of which all is done but the training, with the settings of `FUSED`."""
    return kept_graded.put_back() / "run.toml"


@pytest.fixture
def graded(graded_toml: Path) -> tuple[Config, RunDir]:
    config = load_config(graded_toml, FUSED)
    return config, RunDir(config.folder)


def test_a_list_is_the_positive_its_negatives_and_the_nearest_mined(graded: tuple[Config, RunDir]) -> None:
    config, run_dir = graded
    curriculum = planned(config)
    tuples = list(read_tuples(run_dir.tuples))
    numbers = {json.loads(line)["id"]: n for n, line in enumerate(run_dir.train_pairs.read_text().splitlines())}
    texts, mined = [document.text for document in read_documents(run_dir.corpus)], read_mined(run_dir.mined)
    assert [len(phase.grades) for phase in curriculum.phases] == [5]
    longer = 0
    for place in np.unique(curriculum.places).tolist():
        whole, listed = tuples[place], curriculum.tuples[place]
        rows = np.flatnonzero(mined.pair == numbers[whole.id])
        nearest = [texts[mined.document[row]] for row in sorted(rows, key=lambda row: -mined.scores["embedding"][row])]
        own = [whole.positive, *(negative.text for negative in whole.negatives)]
        expected = list(dict.fromkeys(map(folded, own + nearest)))[:6]
        assert [folded(listed.positive), *(folded(negative.text) for negative in listed.negatives)] == expected
        longer += len(expected) > len(own)
    assert longer > 3


def test_scores_of_each_teacher_are_its_own(graded_toml: Path, tiny_cross_encoder: Path, tiny_encoder: Path) -> None:
    """Those of a cross-encoder are bare logits."""
    cross = CrossEncoder(str(tiny_cross_encoder))
    bi = SentenceTransformer(str(tiny_encoder))
    for kind, folder in (("cross-encoder", tiny_cross_encoder), ("embedder", tiny_encoder)):
        named = [f"training.teacher.kind='{kind}'", f"training.teacher.model='{folder}'"]
        curriculum = planned(load_config(graded_toml, [*FUSED, *named]))
        graded = curriculum.tuples[int(curriculum.places[0, 0])]
        texts = [graded.positive, *(negative.text for negative in graded.negatives)]
        if kind == "embedder":
            expected = bi.encode(texts, normalize_embeddings=True) @ bi.encode(graded.query, normalize_embeddings=True)
        else:
            expected = cross.predict([(graded.query, text) for text in texts])
        assert graded.score is not None
        found = [graded.score, *(negative.score for negative in graded.negatives)]
        assert np.allclose(found, expected, atol=ROUNDED if kind == "embedder" else 1e-6)
        assert curriculum.teacher is not None
        assert curriculum.teacher.lowest < expected.mean() < curriculum.teacher.highest


def test_a_run_with_a_teacher_scores_once(
    graded_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another training of the folder asks about what it has not met before alone."""
    asked: list[int] = []
    ask = TeacherScores._ask

    def noted(self: TeacherScores, new: dict[int, tuple[str, str]]) -> None:
        asked.append(len(new))
        ask(self, new)

    monkeypatch.setattr(TeacherScores, "_ask", noted)

    def train_again(setting: str) -> None:
        run_stages(load_config(graded_toml, [*FUSED, setting]), [*UP_TO_GRADE, "train"], force=True)

    config = load_config(graded_toml, FUSED)
    run(config)
    said = capsys.readouterr().err
    assert re.search(r"the teacher has scored \d+ lists of [\d.]+ documents on average", said)
    assert len(asked) == 1
    log = RunDir(config.folder).training / "log.jsonl"
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert len(losses) == 4 and np.isfinite(losses).all()
    train_again("training.learning_rate=5e-4")
    assert len(asked) == 1
    train_again("training.steps=6")
    assert len(asked) == 1 or asked[1] < asked[0]
    train_again("training.teacher.bm25_weight=0.5")
    assert asked[-1] == asked[0]


def test_a_kill_costs_the_lists_under_way(graded: tuple[Config, RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run_dir = graded
    expected = planned(config)
    for path in run_dir.teacher.iterdir():
        path.unlink()
    monkeypatch.setattr(teachers, "LISTS", 4)
    score, calls = teachers._teacher, []

    def killed(*given: Any) -> Any:
        teacher = score(*given)

        def count(pairs: list[tuple[str, str]]) -> Any:
            calls.append(len(pairs))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return teacher(pairs)

        return count

    monkeypatch.setattr(teachers, "_teacher", killed)
    with pytest.raises(KeyboardInterrupt):
        planned(config)
    assert [path.name for path in sorted(run_dir.teacher.glob("*"))] == ["000000.parquet", "000001.parquet"]
    resumed = planned(config)
    assert calls[3] == calls[2]  # what was lost comes first, and nothing before it
    for place in np.unique(resumed.places).tolist():
        assert resumed.tuples[place] == expected.tuples[place]
    assert resumed.teacher == expected.teacher


def test_what_a_teacher_cannot_teach(
    graded_toml: Path, graded: tuple[Config, RunDir], tmp_path: Path, tiny_encoder: Path
) -> None:
    config, run_dir = graded
    absent = [*FUSED, "training.teacher.kind='cross-encoder'", f"training.teacher.model='{tmp_path / 'absent'}'"]
    with pytest.raises(ConfigError, match=r"training.teacher.model: .*absent"):
        run(load_config(graded_toml, absent), force=True)
    wrong = [*absent[:-1], f"training.teacher.model='{tiny_encoder}'"]
    with pytest.raises(ConfigError, match=r"training.teacher.model: .*head that scores pairs"):
        run(load_config(graded_toml, wrong), force=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "_teacher", lambda *_: lambda pairs: [0.25] * len(pairs))
        with pytest.raises(DataError, match=r"training.teacher: nearly all of its \d+ scores are 0.25"):
            planned(config)
    judge = load_config(graded_toml, [*PLAIN, "training.loss='distill'", "training.teacher.kind='judge'"])
    assert planned(judge).teacher is not None
    tuples = list(read_tuples(run_dir.tuples))
    object.__setattr__(tuples[0], "score", None)
    write_records(run_dir.tuples, tuples)
    with pytest.raises(ConfigError, match=r"training.teacher.kind: .*has no judge scores of the positives"):
        planned(judge)


def test_lists_of_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    alone, two = (ScoredList(np.arange(n, dtype=np.int32), np.ones(n, np.float32)) for n in (1, 2))
    teachers._say_how_long({3: alone, 5: two, 6: alone})
    said = "the teacher has scored 3 lists of 1.33 documents on average; 2 of them contain only the positive"
    assert said in capsys.readouterr().err
    with pytest.raises(DataError, match=r"training.teacher: no list has a document besides the positive"):
        teachers._say_how_long({3: alone, 6: alone})
