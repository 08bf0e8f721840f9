"""What each stage of a run does: read its records, call the package that does the work, write the result.

The packages know records, not files; here is where the two meet. Libraries that are slow to import are imported
by the stage that needs them.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from multigrain import asking
from multigrain.config import Config
from multigrain.data.corpus import Corpus
from multigrain.data.split import SplitData, prepare, usable_negatives
from multigrain.errors import DataError, LLMReplyError
from multigrain.evaluation.evaluate import check_unseen, load_queries, load_task, without_queries_of
from multigrain.jsonl import atomic_file, read_objects, to_line, write_atomic, write_json, write_objects
from multigrain.model.locate import weight_files
from multigrain.progress import say
from multigrain.records import Candidate, Document, GradedTuple, Pair, Record, to_json, tuple_from_json
from multigrain.rundir import RunDir
from multigrain.summary import summarize
from multigrain.synthesis.synthesize import Parked
from multigrain.vectors import Embed

REASON_WIDTH = 100


@dataclass
class Result:
    """What a stage reports of itself."""

    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cost: float = 0.0


def data(config: Config, run_dir: RunDir) -> Result:
    """Read and split the data, and keep them in the run folder."""
    split = read_data(config)
    _write(run_dir.train_pairs, split.train)
    _write(run_dir.held_out_pairs, split.held_out)
    _write(run_dir.corpus, split.documents)
    given, left_out = usable_negatives(split)
    _write(run_dir.given, given)
    if left_out:
        say(f"  {left_out} given negatives are held-out texts: left out")
    return Result(
        {"train_pairs": len(split.train), "held_out_pairs": len(split.held_out), "documents": len(split.documents)}
    )


def read_data(config: Config) -> SplitData:
    """Read and split the data, and make sure that they serve what comes later.

    Raises:
        DataError: see `prepare`; or nothing is held out, a query of the evaluation is also in training, or there
            are too few pairs for a batch. It is better said now than after an hour.
    """
    split = prepare(config)
    if len(split.train) < config.training.batch_size:
        raise DataError(
            config.data.pairs,
            f"{len(split.train)} pairs are left to train on; a batch needs {config.training.batch_size}. "
            "Give more pairs, or lower training.batch_size.",
        )
    for name in config.evaluation.tasks:
        task = load_queries(name, split.held_out)
        if config.data.drop_leaked:
            split = replace(split, train=without_queries_of(task, split.train))
        check_unseen(task, split.train)
    return split


def synthesize(config: Config, run_dir: RunDir) -> Result:
    """Have candidates written and mined, and add those that came with the pairs."""
    sent = asking.ask_all(config, run_dir)
    counts = Counter({"requests": 0, "sent": sent, "written": 0, "parked": 0, "mined": 0})
    reasons: Counter[str] = Counter()
    details: dict[str, str] = {}
    """One for each reason."""
    with atomic_file(run_dir.candidates) as candidates, atomic_file(run_dir.parked) as parked:
        for outcome in asking.outcomes(config, run_dir):
            counts["requests"] += 1
            if isinstance(outcome, Parked):
                counts["parked"] += 1
                reasons[outcome.reason] += 1
                details.setdefault(outcome.reason, outcome.detail)
                parked.write(to_line(asdict(outcome)))
            else:
                counts["written"] += len(outcome)
                candidates.writelines(to_line(to_json(candidate)) for candidate in outcome)
        for candidate in _mined(config, run_dir):
            counts["mined"] += 1
            candidates.write(to_line(to_json(candidate)))
        for _, fields in read_objects(run_dir.given):
            counts["given"] += 1
            candidates.write(to_line(fields))
    for reason, times in reasons.most_common():
        say(f"  {times:>7} without an answer: {reason:<11} such as: {details[reason][:REASON_WIDTH]}")
    if counts["requests"] and not counts["written"]:
        ((reason, _),) = reasons.most_common(1)
        raise LLMReplyError(
            f"none of the {counts['requests']} inputs has a usable answer ({run_dir.parked}); most often {reason}: "
            f"{details[reason]} When it is mended: multigrain synthesize RUN.toml --retry {reason}"
        )
    _, spent = asking.spent(run_dir)
    return Result(dict(counts), spent.tokens, spent.cost)


def _mined(config: Config, run_dir: RunDir) -> Iterator[Candidate]:
    """Candidates from the corpus, where the run wants them."""
    if not config.mining.enabled:
        return
    from multigrain.synthesis.mine import mine_candidates

    yield from mine_candidates(
        _read_pairs(run_dir.train_pairs),
        Corpus(run_dir.corpus),
        judge_encoder(config, run_dir),
        config.grading.judge_model,
        config.grading.bounds,
        config.mining,
        config.seed,
    )


def grade(config: Config, run_dir: RunDir) -> Result:
    """Judge the candidates and make graded tuples of them."""
    from multigrain.grading.grade import grade_candidates
    from multigrain.grading.judges import EmbeddingJudge
    from multigrain.grading.report import report

    pairs = _read_pairs(run_dir.train_pairs)
    candidates = _read_candidates(run_dir.candidates)
    texts = [text for pair in pairs for text in (pair.query, pair.positive)] + [c.text for c in candidates]
    judge = EmbeddingJudge(judge_encoder(config, run_dir), texts)
    per_grade = max(config.synthesis.per_grade, config.mining.per_grade)
    graded = grade_candidates(pairs, candidates, judge, config.grading.bounds, per_grade)
    _write(run_dir.dropped, graded.dropped)
    write_json(run_dir.report, report(graded, candidates))
    _write(run_dir.tuples, graded.tuples)
    negatives = sum(len(graded_tuple.negatives) for graded_tuple in graded.tuples)
    return Result({"tuples": len(graded.tuples), "negatives": negatives, "dropped": len(graded.dropped)})


def train(config: Config, run_dir: RunDir) -> Result:
    """Train along the curriculum; an interrupted training goes on from its last checkpoint."""
    from multigrain.model.build import build_model
    from multigrain.training.curriculum import plan
    from multigrain.training.train import train_model

    tuples = list(_read_tuples(run_dir.tuples))
    curriculum = plan(tuples, config.training.phases, config.training.batch_size, config.seed)
    _start_anew_if_changed(config, run_dir)
    model = build_model(config.model.base, config.model.pooling, config.model.max_tokens)
    train_model(model, curriculum, config.training, run_dir.training, config.seed)
    model.save_pretrained(str(run_dir.trained), create_model_card=False)
    return Result({"steps": curriculum.steps, "phases": len(curriculum.phases)})


def _start_anew_if_changed(config: Config, run_dir: RunDir) -> None:
    """Remove the checkpoints of a training with other settings, tuples or base."""
    base = _weights_digest(config.model.base)
    tuples = hashlib.sha256(run_dir.tuples.read_bytes()).hexdigest()
    fingerprint = f"{config.fingerprint('seed', 'model', 'training')} {tuples} {base}\n"
    note = run_dir.training_fingerprint
    if not note.is_file() or note.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(run_dir.training, ignore_errors=True)
        write_atomic(note, fingerprint.encode())


def evaluate(config: Config, run_dir: RunDir) -> Result:
    """Measure the trained model and its base, query by query."""
    from multigrain.evaluation.compare import paired_bootstrap
    from multigrain.evaluation.evaluate import evaluate as evaluate_task
    from multigrain.evaluation.examples import choose_examples
    from multigrain.evaluation.metrics import METRICS

    train_pairs = _read_pairs(run_dir.train_pairs)
    held_out, documents = _read_pairs(run_dir.held_out_pairs), _read_documents(run_dir)
    base_encoder, trained_encoder = _base_encoder(config, run_dir), _trained_encoder(run_dir.trained, run_dir.vectors)
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


def export(config: Config, run_dir: RunDir) -> Result:
    """Copy the trained model, with its card, to where others load it."""
    from multigrain.export.card import model_card
    from multigrain.export.export import export_model

    summary = summarize(config, run_dir, list(run_dir.stages()))
    export_model(run_dir.trained, run_dir.model, model_card(config, summary))
    return Result({"files": sum(path.is_file() for path in run_dir.model.rglob("*"))})


def export_data(run_dir: RunDir, form: str, out: Path, force: bool, negatives: int | None) -> str:
    """Write the graded tuples in a form that another tool trains on."""
    from multigrain.export import interchange

    return interchange.export_data(lambda: _read_tuples(run_dir.tuples), form, out, force, negatives)


def search(run_dir: RunDir, query: str, k: int) -> list[tuple[float, Document]]:
    """The k documents nearest to the query, with their cosines."""
    from multigrain.evaluation.evaluate import top_documents
    from multigrain.model.build import load_model

    documents = _read_documents(run_dir)
    corpus = _trained_encoder(run_dir.model, run_dir.vectors)([document.text for document in documents])
    vector = load_model(run_dir.model).encode([query], normalize_embeddings=True)
    best = top_documents(vector, corpus, k)[0]
    return [(float(vector[0] @ corpus[index]), documents[index]) for index in best]


# Encoders: which model, and the file that keeps its vectors.


def judge_encoder(config: Config, run_dir: RunDir) -> Embed:
    """The encoder of the judge, which also mines."""
    judge = config.grading.judge_model, config.grading.judge_max_tokens
    return _encoder_of(*judge, "grading.judge_model", run_dir.judge_vectors, "judging")


def _base_encoder(config: Config, run_dir: RunDir) -> Embed:
    base = config.model.base, config.model.max_tokens
    # What the same model has encoded as the judge serves again.
    same = base == (config.grading.judge_model, config.grading.judge_max_tokens)
    path = run_dir.judge_vectors if same else run_dir.base_vectors
    return _encoder_of(*base, "model.base", path, "encoding (base)")


def _encoder_of(name: str, max_tokens: int, key: str, path: Path, description: str) -> Embed:
    from multigrain.model.build import load_base
    from multigrain.model.encode import CachedEncoder

    model_id = f"{name}, {max_tokens} tokens, {_weights_digest(name)}"
    return CachedEncoder(lambda: load_base(name, max_tokens, key), model_id, path, description)


def _trained_encoder(folder: Path, path: Path) -> Embed:
    """The trained model's encoder; its vectors serve evaluation and search alike."""
    from multigrain.model.build import load_model
    from multigrain.model.encode import CachedEncoder

    return CachedEncoder(lambda: load_model(folder), _weights_digest(str(folder)), path, "encoding (trained)")


def _weights_digest(name: str) -> str:
    digest = hashlib.sha256()
    for path in weight_files(name):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Files to records and back.


def _write(path: Path, records: Iterable[Record]) -> None:
    write_objects(path, (to_json(record) for record in records))


def _read_pairs(path: Path) -> list[Pair]:
    return [Pair(**fields) for _, fields in read_objects(path)]


def _read_documents(run_dir: RunDir) -> list[Document]:
    return [Document(**fields) for _, fields in read_objects(run_dir.corpus)]


def _read_candidates(path: Path) -> list[Candidate]:
    return [Candidate(**fields) for _, fields in read_objects(path)]


def _read_tuples(path: Path) -> Iterator[GradedTuple]:
    for line, fields in read_objects(path):
        try:
            yield tuple_from_json(fields)
        except (TypeError, KeyError) as error:
            raise DataError(path, f"is no graded tuple ({error}). Make the file again by grade.", line) from None


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
