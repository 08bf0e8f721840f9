"""The run folder: its files, its lock, and the manifest of finished stages.

runs/NAME/
  run.toml            the resolved configuration
  manifest.json       per stage: fingerprint, version, seed, counts, seconds, tokens, cost
  data/               train.jsonl, held_out.jsonl (pairs), dev.jsonl (pairs of the dev set), other.jsonl (other pairs of
                      the input), given.jsonl (negatives that came with the pairs), corpus.jsonl, sources/NAME/
                      (what is written for one of several sources: pairs.jsonl, queries.json and others)
  synthesis/          store.sqlite (every paid answer), candidates.jsonl (texts), mined.parquet (references to
                      documents), parked.jsonl, batches/
  grading/            tuples.jsonl, dropped.jsonl (texts), dropped.parquet (references), report.json
  adaptation/         model/ (the base after `[adapt]`), log.jsonl, checkpoints/ (until it is finished)
  training/           curriculum.json, log.jsonl, checkpoints/ (until training is finished), model/, frozen/ (states of
                      frozen layers), teacher/ (its scores and vectors)
  baseline/           in-batch/, mined/ (models of the stock sentence-transformers trainer), arms.json, checkpoints/
                      (until they are finished)
  evaluation/         scores.json, per_query.jsonl, per_dev_query.jsonl (scores on the dev set), examples.json,
                      choice.json (the model to export, and why), mteb/ (results in the form of mteb)
  tune/               table.json (the trials of `tune`, and its choice), part/ (the pairs of the trials), trials/
  model/              the exported model
  search/             the trained model's vectors of the corpus, bm25/ (an index for each corpus)
  summary.json
Files named vectors.bin are caches of encoded texts; they can be deleted at any time.
"""

import fcntl
import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from multigrain.config import EXPORTED_MODEL, RUN_FILE, TRAINED_MODEL, Config, differences
from multigrain.errors import ConfigError, RunError
from multigrain.files import write_atomic, write_json


@dataclass(frozen=True)
class StageRecord:
    """The entry of a finished stage in the manifest."""

    fingerprint: str
    version: str
    seed: int
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cost: float = 0.0
    models: dict[str, str] = field(default_factory=dict)
    """Digests of the models that the stage read, by name; runs of earlier versions have none."""


class WritingFiles:
    """The paths of what is kept when the pairs of a source are written.

    Args:
        folder: the folder of these files.
    """

    def __init__(self, folder: Path) -> None:
        self.passages = folder / "passages.jsonl"
        self.search_tasks = folder / "tasks.jsonl"
        self.dropped_queries = folder / "dropped_queries.jsonl"
        self.query_report = folder / "queries.json"


class SourceFiles(WritingFiles):
    """The paths of what is kept when the pairs of one of several sources are written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pairs = folder / "pairs.jsonl"


class RunDir(WritingFiles):
    """The paths of one run, and its manifest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "data")
        self.folder = folder
        self.config = folder / RUN_FILE
        self.manifest = folder / "manifest.json"
        self.summary = folder / "summary.json"
        self.train_pairs = folder / "data" / "train.jsonl"
        self.held_out_pairs = folder / "data" / "held_out.jsonl"
        self.dev_pairs = folder / "data" / "dev.jsonl"
        self.other_pairs = folder / "data" / "other.jsonl"
        self.corpus = folder / "data" / "corpus.jsonl"
        self.parked_pairs = folder / "data" / "parked.jsonl"
        self.given = folder / "data" / "given.jsonl"
        self.store = folder / "synthesis" / "store.sqlite"
        self.candidates = folder / "synthesis" / "candidates.jsonl"
        self.mined = folder / "synthesis" / "mined.parquet"
        self.mined_parts = folder / "synthesis" / "mined"
        self.style = folder / "synthesis" / "style.json"
        self.parked = folder / "synthesis" / "parked.jsonl"
        self.judge_vectors = folder / "synthesis" / "vectors.bin"
        self.tuples = folder / "grading" / "tuples.jsonl"
        self.dropped = folder / "grading" / "dropped.jsonl"
        self.dropped_mined = folder / "grading" / "dropped.parquet"
        self.parked_repairs = folder / "grading" / "parked.jsonl"
        self.suspects = folder / "grading" / "suspects.jsonl"
        self.report = folder / "grading" / "report.json"
        self.adaptation = folder / "adaptation"
        self.adapted = folder / "adaptation" / "model"
        self.training = folder / "training"
        self.training_fingerprint = folder / "training" / "fingerprint"
        self.frozen = folder / "training" / "frozen"
        self.teacher = folder / "training" / "teacher"
        self.teacher_vectors = folder / "training" / "teacher" / "vectors.bin"
        self.curriculum = folder / "training" / "curriculum.json"
        self.trained = folder / TRAINED_MODEL
        self.training_log = folder / "training" / "log.jsonl"
        self.baseline = folder / "baseline"
        self.arms = folder / "baseline" / "arms.json"
        self.choice = folder / "evaluation" / "choice.json"
        self.tuning = folder / "tune" / "table.json"
        self.scores = folder / "evaluation" / "scores.json"
        self.per_query = folder / "evaluation" / "per_query.jsonl"
        self.per_dev_query = folder / "evaluation" / "per_dev_query.jsonl"
        self.examples = folder / "evaluation" / "examples.json"
        self.base_vectors = folder / "evaluation" / "vectors.bin"
        self.model = folder / EXPORTED_MODEL
        self.vectors = folder / "search" / "vectors.bin"
        self.bm25 = folder / "search" / "bm25"

    def pair_files(self) -> list[Path]:
        """Return the files of all pairs of the input. Their positives are never negatives of the same query."""
        files = (self.train_pairs, self.held_out_pairs, self.dev_pairs, self.other_pairs)
        return [path for path in files if path.is_file()]

    def source(self, name: str) -> SourceFiles:
        """Return the files of one of several sources whose pairs are written."""
        return SourceFiles(self.folder / "data" / "sources" / name)

    def known(self, name: str) -> Path:
        """Return a file of texts of known relevance, used to calibrate a language model as a judge."""
        return self.folder / "grading" / f"known_{name}.jsonl"

    def mteb(self, side: str) -> Path:
        """Return the folder of the results that mteb writes, for `base` or `trained`."""
        return self.folder / "evaluation" / "mteb" / side

    def arm_plan(self, arm: str) -> Path:
        """Return the file with the settings and the number of steps of an arm of the baseline."""
        return self.baseline / f"{arm}.json"

    def arm_vectors(self, arm: str) -> Path:
        """Return the file of the vectors of an arm of the baseline."""
        return self.folder / "evaluation" / arm / "vectors.bin"

    def batch(self, name: str) -> Path:
        """Return the file of a batch's requests."""
        return self.folder / "synthesis" / "batches" / f"{name}.jsonl"

    def stages(self) -> dict[str, StageRecord]:
        """Return the finished stages, by name.

        Raises:
            RunError: the manifest is damaged.
        """
        if not self.manifest.exists():
            return {}
        try:
            entries = json.loads(self.manifest.read_text(encoding="utf-8"))
            return {name: StageRecord(**entry) for name, entry in entries.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{self.manifest}: damaged ({error}). Delete it; finished stages are then redone.") from None

    def record(self, stage: str, entry: StageRecord) -> None:
        """Record in the manifest that a stage is finished."""
        entries = {name: asdict(record) for name, record in self.stages().items()}
        write_json(self.manifest, {**entries, stage: asdict(entry)})

    def forget(self, stage: str) -> None:
        """Remove a stage from the manifest, before its files change."""
        stages = self.stages()
        if stage in stages:
            write_json(self.manifest, {name: asdict(record) for name, record in stages.items() if name != stage})

    def changed(self, config: Config) -> list[str]:
        """Return the settings in which the configuration of the folder differs from this one, one line each."""
        return differences(read_settings(self.config), config) if self.config.exists() else []

    def claim(self, config: Config, accept: bool, models: Sequence[str] = ()) -> None:
        """Claim the folder for this configuration.

        Args:
            config: the run.
            accept: whether the configuration may claim it.
            models: names of the models whose files have changed, for the message.

        Raises:
            ConfigError: `accept` is off; lists the differences.
        """
        if not accept:
            changed = self.changed(config)
            made = f"made with other settings: {'; '.join(changed)}" if changed else "made from other input files"
            if models and not changed:
                made = f"made with other files of {', '.join(models)}"
            raise ConfigError(
                self.folder, [f"{made}. Choose another name, or use --force to redo the affected stages."]
            )
        write_atomic(self.config, to_toml(config).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to the folder while this one does.

        Raises:
            RunError: another process is writing to it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.folder}: another multigrain process is using this folder. Wait for it, or stop it."
                ) from None
            yield


def read_settings(path: Path) -> dict[str, Any]:
    """Return the tables of the run.toml of a folder.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: damaged ({error}). Delete it, or choose another run name.") from None


def to_toml(config: Config) -> str:
    """Return the configuration as TOML, including defaults; keys without a value are left out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))
