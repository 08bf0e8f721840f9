"""Settings chosen on a dev set of the training queries, on a tiny encoder and the scripted language model."""

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import multigrain.data.held_out
import multigrain.experiments.tune
from multigrain.cli.main import main
from multigrain.config import load_config
from multigrain.data.jsonl import read_pairs, read_tuples
from multigrain.experiments.dev_part import DevPart, dev_part
from multigrain.experiments.tune import tune
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair, identity
from tests import warm
from tests.conftest import as_lines, small_pairs, write_run
from tests.kept_folder import KeptFolder, Performed, perform

CHOICE = """
[tune]
values = { learning_rate = [1e-2, 1e-9] }
recipes = [{ schedule = "in-batch" }]
"""


def write_tunable(folder: Path, encoder: Path) -> Path:
    """Write a run with enough pairs to choose by, and a schedule that can be shortened."""
    path = write_run(folder, encoder)
    (folder / "pairs.jsonl").write_text(as_lines(small_pairs(200)))
    text = path.read_text()
    text = text[: text.index("[[training.phases]]")].replace("learning_rate = 1e-3\n", "steps = 16\n")
    text = text.replace("checkpoint_every = 2", "checkpoint_every = 4")
    path.write_text(text.replace("[synthesis]", "[synthesis]\nlimit = 0") + CHOICE)
    return path


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multigrain.experiments.tune, "FEWEST_STEPS", 8)
        yield


@pytest.fixture
def tunable(tmp_path: Path, tiny_encoder: Path) -> Path:
    return write_tunable(tmp_path, tiny_encoder)


@pytest.fixture(scope="module")
def kept_graded(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> KeptFolder:
    folder = tmp_path_factory.mktemp("graded")
    config = load_config(write_tunable(folder, tiny_encoder))
    verbs.synthesize(config)
    verbs.grade(config)
    return KeptFolder(folder)


@pytest.fixture
def graded(kept_graded: KeptFolder) -> Path:
    """The file of a run of which all is done but the training."""
    return kept_graded.put_back() / "run.toml"


@pytest.fixture(scope="module")
def kept_tuned(kept_graded: KeptFolder) -> Performed:
    project = kept_graded.put_back()
    return perform(project, "tune", str(project / "run.toml"))


@pytest.fixture
def tuned(kept_tuned: Performed) -> Path:
    return kept_tuned.project.put_back() / "run.toml"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == code
    return capsys.readouterr()


def table_of(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(RunDir(load_config(path).folder).tuning.read_bytes())
    return table


def test_a_choice_and_what_training_takes(
    kept_tuned: Performed, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = kept_tuned
    table, run_dir = table_of(tuned), RunDir(load_config(tuned).folder)
    assert table["chosen"] == {"schedule": "in-batch", "learning_rate": 0.01}
    low = table["confirmed"][1]
    assert low > 0 and f"clearly better than the current settings: nDCG@10 +{table['confirmed'][0]:.4f}" in out
    assert [[row["steps"] for row in done["rows"]] for done in table["rungs"]] == [[8, 8, 8], [16, 16]]
    assert table["rungs"][0]["rows"][0]["recipe"] == 1 and "tune: 3 recipes, 28 dev queries" in err
    first = out.splitlines()[1]
    assert first.startswith('schedule = "in-batch", learning_rate = 0.01') and " taken " in first
    assert not list(run_dir.folder.glob("tune/trials/*/training/model"))

    assert (
        '  tuned       training uses schedule = "in-batch", learning_rate = 0.01, from'
        in told(capsys, "check", str(tuned))[0]
    )
    _, err = told(capsys, "train", str(tuned))
    assert f'  schedule = "in-batch", learning_rate = 0.01, from {run_dir.tuning}: clearly better' in err
    assert highest_rate(run_dir) == pytest.approx(0.01, rel=0.1)
    assert "learning_rate = 5e-05" in (run_dir.folder / "run.toml").read_text()  # the run's own settings stay

    # The same command comes to the same without a training; the folder stands for its file; the card says what is true.
    again, err = told(capsys, "tune", str(tuned))
    assert again == out and "training 16/16" not in err
    _, err = told(capsys, "run", str(run_dir.folder))
    assert "train: already done" in err
    assert "learning rate 0.01" in (run_dir.model / "README.md").read_text()

    # It holds for what it was made with, and only where it is wanted.
    for setting, fault in (
        ("training.recipe=fixed", ""),
        ("training.learning_rate=2e-5", "is for other settings, data or base"),
    ):
        _, err = told(capsys, "train", str(tuned), "--force", "--set", setting)
        assert fault in err and "clearly better" not in err
        rate = 2e-5 if "2e-5" in setting else 5e-5
        assert highest_rate(run_dir) == pytest.approx(rate, rel=0.1), setting
    run_dir.tuning.write_text('{"chosen": 7}')  # somebody's
    told(capsys, "train", str(tuned), "--force", "--set", "training.learning_rate=2e-5")


def test_run_tunes_first_and_a_given_setting_is_not_overridden(
    graded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graded.write_text(graded.read_text().replace("steps = 16\n", "steps = 8\nlearning_rate = 1e-3\n"))
    out, err = told(capsys, "run", str(graded), "--tune")
    assert "training.learning_rate = 0.001 is given; tune does not vary it" in err
    table, run_dir = table_of(graded), RunDir(load_config(graded).folder)
    assert table["recipes"] == [{}, {"schedule": "in-batch"}] and "verdict" in out
    assert highest_rate(run_dir) == pytest.approx(0.001, rel=0.1)


def highest_rate(run_dir: RunDir) -> float:
    lines = (run_dir.training / "log.jsonl").read_text().splitlines()
    return max(float(json.loads(line)["learning_rate"]) for line in lines)


def test_the_dev_part_is_not_trained_on(graded: Path) -> None:
    config = load_config(graded)
    run_dir = RunDir(config.folder)
    held_out = {identity(pair.query) for pair in read_pairs(run_dir.held_out_pairs)}
    part = dev_part(config, run_dir)
    rest = RunDir(part.folder)
    dev, answers = set(part.queries), {identity(pair.positive) for pair in part.pairs}
    assert len(dev) == 28 and not dev & held_out and part.sizes == [28]
    trained = list(read_tuples(rest.tuples))
    assert len(trained) + 28 == len(list(read_tuples(run_dir.tuples))) and not dev & {
        identity(kept.query) for kept in trained
    }
    assert not answers & {identity(kept.positive) for kept in trained}
    assert not answers & {identity(negative.text) for kept in trained for negative in kept.negatives}
    known = [pair.id for path in rest.pair_files() for pair in read_pairs(path)]
    assert sorted(known) == sorted(pair.id for path in run_dir.pair_files() for pair in read_pairs(path))
    # Fewer queries come first, and search fewer documents, in which their answers are.
    few, all_queries = part.task(5), part.task(28)
    assert list(few.queries.items()) == list(all_queries.queries.items())[:5]
    texts = {document.id: document.text for document in few.documents}
    assert len(texts) < len(list(all_queries.documents))
    positives = {pair.query: pair.positive for pair in part.pairs}
    for id, query in few.queries.items():
        assert [identity(texts[document]) for document in few.relevance[id]] == [identity(positives[query])]


def test_queries_that_are_kept_for_choices_are_the_dev_part(tunable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multigrain.data.held_out, "FEWEST_DEV", 20)
    tunable.write_text(tunable.read_text().replace("held_out = 0.25", "held_out = 0.25\ndev_share = 0.2"))
    config = load_config(tunable)
    verbs.synthesize(config)
    verbs.grade(config)
    run_dir = RunDir(config.folder)
    kept = list(read_pairs(run_dir.dev_pairs))
    part = dev_part(config, run_dir)
    rest = RunDir(part.folder)
    assert len(kept) >= 20 and sorted(pair.id for pair in part.pairs) == sorted(pair.id for pair in kept)
    # Nothing is taken from what is trained on but negatives that answer a dev query.
    assert rest.train_pairs.read_bytes() == run_dir.train_pairs.read_bytes()
    answers = {identity(pair.positive) for pair in kept}
    before, after = (list(read_tuples(folder.tuples)) for folder in (run_dir, rest))
    assert part.tuples == len(before) == len(after)
    assert any(identity(negative.text) in answers for graded in before for negative in graded.negatives)
    for graded, left in zip(before, after, strict=True):
        assert [n for n in graded.negatives if identity(n.text) not in answers] == list(left.negatives)
    known = [pair.id for path in rest.pair_files() for pair in read_pairs(path)]
    assert sorted(known) == sorted(pair.id for path in run_dir.pair_files() for pair in read_pairs(path))
    # Nobody has mined for these queries, and they search what is near them all the same.
    assert part.negatives.keys() == {identity(pair.query) for pair in kept}
    assert all(4 <= len(near) <= 9 for near in part.negatives.values())
    hits = sum(pair.positive in part.negatives[identity(pair.query)] for pair in kept)
    assert hits > len(kept) / 2  # what BM25 finds first is the answer, mostly


def test_sizes_double_until_all_are_measured() -> None:
    pairs = [Pair(str(number), f"query {number}", "answer") for number in range(600)]
    assert DevPart(Path(), pairs, {}, [], []).sizes == [250, 500, 600]
    assert DevPart(Path(), pairs[:250], {}, [], []).sizes == [250]


def test_killed_at_any_time_it_comes_to_the_same(tuned: Path) -> None:
    folder = load_config(tuned).folder
    expected = {**table_of(tuned), "minutes": 0}
    shutil.rmtree(folder / "tune")
    for _ in range(3):
        process = warm.start("tune", str(tuned), "--quiet")
        while process.is_alive() and not list(folder.glob("tune/trials/*")):  # the first start imports torch
            time.sleep(0.01)
        time.sleep(random.uniform(0, 2))
        process.kill()
        process.join()
    tune(tuned)
    assert {**table_of(tuned), "minutes": 0} == expected


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("steps = 16", 'recipe = "fixed"', "with which training ignores the choice of tune; remove it"),
        ("[tune]", '[[training.phases]]\nname = "a"\ngrades = [4]\nsteps = 16\n[tune]', "give shares instead"),
        ("held_out = 0.25", "held_out = 0.6", "training pairs with negatives; tune needs 100"),
        ('recipes = [{ schedule = "in-batch" }]', "recipes = [{ steps = 4 }]", "found steps; wanted a setting"),
    ],
)
def test_bad_input(tunable: Path, old: str, new: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    tunable.write_text(tunable.read_text().replace(old, new))
    _, err = told(capsys, "tune", str(tunable), code=2)
    assert fault in err
    assert not RunDir(tunable.parent / "runs" / "tiny").tuning.exists()


def test_a_run_under_way_is_left_alone(tunable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(load_config(tunable).folder).lock():
        _, err = told(capsys, "tune", str(tunable), code=2)
    assert "another multigrain process is using this folder" in err
