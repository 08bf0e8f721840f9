"""The stages of a run in their order, what each reads and writes, and which are still to be done.

    data -> synthesize -> grade -> train -> evaluate -> export

The stages themselves know records, not files; here is where the two meet. A stage is done when the manifest
holds it with the fingerprint of its settings and of the files that it reads, and the files that it writes
are there. So a setting that leaves a stage's files as they were does not redo the stages after it.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multigrain import __version__
from multigrain.config import Config
from multigrain.data.sources import files_of
from multigrain.errors import RunError
from multigrain.jsonl import read_objects, write_atomic, write_json, write_objects
from multigrain.progress import meter, say
from multigrain.records import Candidate, Document, Pair, Record, to_json, tuple_from_json
from multigrain.rundir import RunDir, StageRecord


@dataclass
class Result:
    """What a stage reports of itself."""

    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True)
class Stage:
    """A step of the run: what it does, the settings that decide its outcome, what it reads and writes."""

    name: str
    work: Callable[[Config, RunDir], Result]
    sections: tuple[str, ...]
    reads: Callable[[Config, RunDir], list[Path]]
    writes: Callable[[RunDir], list[Path]]

    def fingerprint(self, config: Config, run_dir: RunDir) -> str:
        """A digest of all that decides the outcome."""
        parts = [config.fingerprint("seed", *self.sections)]
        parts += [_file_digest(path) for path in self.reads(config, run_dir)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def is_done(self, config: Config, run_dir: RunDir) -> bool:
        """Whether its result is there and still holds."""
        entry = run_dir.stages().get(self.name)
        if entry is None or not all(path.exists() for path in self.writes(run_dir)):
            return False
        return entry.fingerprint == self.fingerprint(config, run_dir)


def run(config: Config, force: bool = False) -> dict[str, Any]:
    """All stages, those that are done already left out; returns the summary.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    return _run_stages(config, [stage.name for stage in STAGES], force)


def synthesize(config: Config, force: bool = False) -> dict[str, Any]:
    """Prepare the data, and have candidates written and mined."""
    return _run_stages(config, ["data", "synthesize"], force)


def grade(config: Config, force: bool = False) -> dict[str, Any]:
    """Judge the candidates and make graded tuples of them."""
    return _run_stages(config, ["grade"], force)


def train(config: Config, force: bool = False) -> dict[str, Any]:
    """Train the model along the curriculum."""
    return _run_stages(config, ["train"], force)


def evaluate(config: Config, force: bool = False) -> dict[str, Any]:
    """Measure the trained model and its base."""
    return _run_stages(config, ["evaluate"], force)


def export_model(config: Config, force: bool = False) -> dict[str, Any]:
    """Write the folder that others load."""
    return _run_stages(config, ["export"], force)


def _run_stages(config: Config, names: list[str], force: bool) -> dict[str, Any]:
    run_dir = RunDir(config.folder)
    with run_dir.lock():
        run_dir.claim(config, force)
        for stage in STAGES:
            done = stage.is_done(config, run_dir)
            if stage.name in names and done:
                say(f"{stage.name}: done already ({_shown(run_dir.stages()[stage.name].counts)})")
            elif stage.name in names:
                _run_stage(stage, config, run_dir)
            elif not done and stage.name in _before(names[0]):
                verb = "synthesize" if stage.name == "data" else stage.name
                raise RunError(
                    f"{config.folder}: the stage before, {verb}, is not done. Run: multigrain {verb} RUN.toml"
                )
        summary = summarize(config, run_dir)
        write_json(run_dir.summary, summary)
        return summary


def _run_stage(stage: Stage, config: Config, run_dir: RunDir) -> None:
    say(f"{stage.name} ...")
    started = time.monotonic()
    fingerprint = stage.fingerprint(config, run_dir)
    result = stage.work(config, run_dir)
    seconds = round(time.monotonic() - started, 1)
    entry = StageRecord(fingerprint, __version__, config.seed, seconds, result.counts, result.tokens)
    run_dir.record(stage.name, entry)
    say(f"{stage.name}: {_shown(result.counts)} ({seconds:.0f} s)")


def _before(name: str) -> list[str]:
    names = [stage.name for stage in STAGES]
    return names[: names.index(name)]


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing to count"


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "absent"  # the stage itself will say so, with the right message


def _input_files(sources: Iterable[str | None]) -> list[Path]:
    return [path for source in sources if source and source != "held-out" for path in files_of(source)]


# Stages: each reads its records, calls the package that does the work, and writes the result.


def _data(config: Config, run_dir: RunDir) -> Result:
    from multigrain.data.split import prepare

    split = prepare(config)
    _write(run_dir.train_pairs, split.train)
    _write(run_dir.held_out_pairs, split.held_out)
    _write(run_dir.corpus, split.documents)
    return Result(
        {"train_pairs": len(split.train), "held_out_pairs": len(split.held_out), "documents": len(split.documents)}
    )


def _synthesize(config: Config, run_dir: RunDir) -> Result:
    pairs = _read_pairs(run_dir.train_pairs)
    counts, tokens, candidates = asyncio.run(_written(config, run_dir, pairs))
    mined: list[Candidate] = []
    if config.mining.enabled:
        from multigrain.synthesis.mine import mine_candidates

        documents = [document for document in _read_documents(run_dir) if document.split != "held_out"]
        mined = list(
            mine_candidates(
                pairs,
                documents,
                _judge_encoder(config, run_dir),
                config.grading.judge_model,
                config.grading.bounds,
                config.mining.per_grade,
                config.seed,
            )
        )
    _write(run_dir.candidates, candidates + mined)
    return Result({**counts, "mined": len(mined)}, tokens)


async def _written(config: Config, run_dir: RunDir, pairs: list[Pair]) -> tuple[dict[str, int], int, list[Candidate]]:
    from multigrain.llm.providers import make_client, model_name
    from multigrain.llm.store import AnswerStore
    from multigrain.synthesis.synthesize import plan_requests, write_candidates

    tasks = plan_requests(config, pairs, model_name(config.llm))
    if not tasks:
        return {"requests": 0, "sent": 0, "written": 0, "parked": 0}, 0, []
    with AnswerStore(run_dir.store) as store, meter("writing negatives", len(tasks)) as progress:
        async with make_client(config.llm) as client:
            written = await write_candidates(config, tasks, client, store, progress.advance)
    write_objects(run_dir.parked, ({"pair_id": id, "reason": reason} for id, reason in written.parked))
    counts = {
        "requests": written.requests,
        "sent": written.sent,
        "written": len(written.candidates),
        "parked": len(written.parked),
    }
    return counts, written.tokens, written.candidates


def _grade(config: Config, run_dir: RunDir) -> Result:
    from multigrain.grading.grade import grade_candidates
    from multigrain.grading.judges import EmbeddingJudge
    from multigrain.grading.report import report

    pairs = _read_pairs(run_dir.train_pairs)
    candidates = _read_candidates(run_dir.candidates)
    texts = [text for pair in pairs for text in (pair.query, pair.positive)] + [c.text for c in candidates]
    judge = EmbeddingJudge(_judge_encoder(config, run_dir), texts)
    per_grade = max(config.synthesis.per_grade, config.mining.per_grade)
    graded = grade_candidates(pairs, candidates, judge, config.grading.bounds, per_grade)
    _write(run_dir.dropped, graded.dropped)
    write_json(run_dir.report, report(graded, candidates))
    _write(run_dir.tuples, graded.tuples)
    negatives = sum(len(graded_tuple.negatives) for graded_tuple in graded.tuples)
    return Result({"tuples": len(graded.tuples), "negatives": negatives, "dropped": len(graded.dropped)})


def _train(config: Config, run_dir: RunDir) -> Result:
    from multigrain.model.build import build_model
    from multigrain.training.curriculum import plan
    from multigrain.training.train import train_model

    tuples = [tuple_from_json(fields) for _, fields in read_objects(run_dir.tuples)]
    curriculum = plan(tuples, config.training.phases, config.training.batch_size, config.seed)
    _start_anew_if_changed(config, run_dir)
    model = build_model(config.model.base, config.model.pooling, config.model.max_tokens)
    train_model(model, curriculum, config.training, run_dir.training, config.seed)
    model.save_pretrained(str(run_dir.trained), create_model_card=False)
    return Result({"steps": curriculum.steps, "phases": len(curriculum.phases)})


def _start_anew_if_changed(config: Config, run_dir: RunDir) -> None:
    """Remove the checkpoints of a training with other settings or other tuples."""
    import shutil

    fingerprint = next(stage for stage in STAGES if stage.name == "train").fingerprint(config, run_dir)
    note = run_dir.training_fingerprint
    if not note.is_file() or note.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(run_dir.training, ignore_errors=True)
        write_atomic(note, fingerprint.encode())


def _evaluate(config: Config, run_dir: RunDir) -> Result:
    from multigrain.evaluation.compare import paired_bootstrap
    from multigrain.evaluation.evaluate import check_unseen, load_task
    from multigrain.evaluation.evaluate import evaluate as evaluate_task
    from multigrain.evaluation.examples import choose_examples
    from multigrain.evaluation.metrics import METRICS

    train_pairs = _read_pairs(run_dir.train_pairs)
    held_out, documents = _read_pairs(run_dir.held_out_pairs), _read_documents(run_dir)
    base_encoder, trained_encoder = _base_encoder(config, run_dir), _trained_encoder(run_dir, run_dir.trained)
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}}
    per_query: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for name in config.evaluation.tasks:
        task = load_task(name, held_out, documents)
        check_unseen(task, train_pairs)
        base, trained = evaluate_task(task, base_encoder), evaluate_task(task, trained_encoder)
        for side, evaluation in (("base", base), ("trained", trained)):
            scores[side][task.name] = {m: _mean(s[m] for s in evaluation.scores.values()) for m in METRICS}
        scores["difference"][task.name] = {
            metric: paired_bootstrap(
                [score[metric] for score in base.scores.values()],
                [trained.scores[query][metric] for query in base.scores],
                config.seed,
            )
            for metric in METRICS
        }
        per_query += [
            {"task": task.name, "query": query, "base": base.scores[query], "trained": trained.scores[query]}
            for query in task.queries
        ]
        examples += choose_examples(task, base, trained, config.seed)
    write_objects(run_dir.per_query, per_query)
    write_json(run_dir.examples, examples)
    write_json(run_dir.scores, scores)
    return Result({"tasks": len(config.evaluation.tasks), "queries": len(per_query)})


def _export(config: Config, run_dir: RunDir) -> Result:
    from multigrain.export.card import model_card
    from multigrain.export.export import export_model as export_folder

    export_folder(run_dir.trained, run_dir.model, model_card(config, summarize(config, run_dir)))
    return Result({"files": sum(path.is_file() for path in run_dir.model.rglob("*"))})


STAGES = (
    Stage(
        "data",
        _data,
        ("data",),
        lambda config, run: _input_files([config.data.pairs, config.data.corpus]),
        lambda run: [run.train_pairs, run.held_out_pairs, run.corpus],
    ),
    Stage(
        "synthesize",
        _synthesize,
        ("llm", "synthesis", "mining", "grading"),
        lambda config, run: [run.train_pairs, run.corpus],
        lambda run: [run.candidates],
    ),
    Stage(
        "grade",
        _grade,
        ("grading", "synthesis", "mining"),
        lambda config, run: [run.train_pairs, run.candidates],
        lambda run: [run.tuples, run.dropped, run.report],
    ),
    Stage("train", _train, ("model", "training"), lambda config, run: [run.tuples], lambda run: [run.trained]),
    Stage(
        "evaluate",
        _evaluate,
        ("model", "evaluation"),
        lambda config, run: [
            run.training_fingerprint,
            run.train_pairs,
            run.held_out_pairs,
            run.corpus,
            *_input_files(config.evaluation.tasks),
        ],
        lambda run: [run.scores, run.per_query, run.examples],
    ),
    Stage(
        "export",
        _export,
        ("name", "data", "llm", "model", "training"),
        lambda config, run: [run.training_fingerprint, run.scores],
        lambda run: [run.model],
    ),
)


def search(folder: Path, query: str, k: int = 5) -> list[tuple[float, Document]]:
    """The documents of a run's corpus that its exported model finds nearest to the query, with their cosines.

    Raises:
        RunError: the run has no exported model yet.
    """
    from multigrain.evaluation.evaluate import top_documents

    run_dir = RunDir(folder)
    if not (run_dir.model / "modules.json").is_file():
        raise RunError(f"{folder}: no exported model here. Run: multigrain run RUN.toml")
    documents = _read_documents(run_dir)
    encoder = _trained_encoder(run_dir, run_dir.model)
    corpus = encoder([document.text for document in documents])
    vector = encoder([query])
    best = top_documents(vector, corpus, k)[0]
    return [(float(vector[0] @ corpus[index]), documents[index]) for index in best]


def summarize(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """What `summary.json` holds: figures of the evaluation, counts, seconds and tokens of all finished stages."""
    stages = run_dir.stages()
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}}
    if _evaluated(config, run_dir):
        scores = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    return {
        "name": config.name,
        **scores,
        "counts": {name: count for stage in stages.values() for name, count in stage.counts.items()},
        "seconds": {name: stage.seconds for name, stage in stages.items()},
        "tokens": sum(stage.tokens for stage in stages.values()),
        "cost": sum(stage.cost for stage in stages.values()),
    }


def _evaluated(config: Config, run_dir: RunDir) -> bool:
    """Whether the figures in the folder are those of the model in the folder."""
    return all(stage.is_done(config, run_dir) for stage in STAGES if stage.name in ("train", "evaluate"))


def too_many_parked(config: Config, summary: dict[str, Any]) -> bool:
    """Whether more requests stayed without an answer than `synthesis.max_parked` allows."""
    counts = summary["counts"]
    return bool(counts.get("parked", 0) > config.synthesis.max_parked * counts.get("requests", 0))


# Encoders: which model, and the file that keeps its vectors.


def _judge_encoder(config: Config, run_dir: RunDir) -> Any:
    judge = (config.grading.judge_model, config.grading.judge_max_tokens)
    return _base_like(*judge, "grading.judge_model", run_dir.judge_vectors, "judging")


def _base_encoder(config: Config, run_dir: RunDir) -> Any:
    base = (config.model.base, config.model.max_tokens)
    # What the same model has encoded as the judge serves again.
    same = base == (config.grading.judge_model, config.grading.judge_max_tokens)
    path = run_dir.judge_vectors if same else run_dir.base_vectors
    return _base_like(*base, "model.base", path, "encoding (base)")


def _base_like(name: str, max_tokens: int, key: str, path: Path, description: str) -> Any:
    from multigrain.model.build import load_base
    from multigrain.model.encode import CachedEncoder

    model_id = f"{name}, {max_tokens} tokens"
    return CachedEncoder(lambda: load_base(name, max_tokens, key), model_id, path, description)


def _trained_encoder(run_dir: RunDir, folder: Path) -> Any:
    """The trained model's encoder; its vectors serve evaluation and search alike."""
    from multigrain.model.build import load_model
    from multigrain.model.encode import CachedEncoder

    training = run_dir.training_fingerprint.read_text(encoding="utf-8")
    return CachedEncoder(lambda: load_model(folder), training, run_dir.vectors, "encoding (trained)")


# Files to records and back.


def _write(path: Path, records: Iterable[Record]) -> None:
    write_objects(path, (to_json(record) for record in records))


def _read_pairs(path: Path) -> list[Pair]:
    return [Pair(**fields) for _, fields in read_objects(path)]


def _read_documents(run_dir: RunDir) -> list[Document]:
    return [Document(**fields) for _, fields in read_objects(run_dir.corpus)]


def _read_candidates(path: Path) -> list[Candidate]:
    return [Candidate(**fields) for _, fields in read_objects(path)]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
