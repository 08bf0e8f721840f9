"""Measure the trained model beside its base, and tell when the training has spoiled it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multigrain.config import Config, ModelSection, TrainingSection
from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus import Corpus
from multigrain.data.jsonl import read_pairs
from multigrain.errors import TrainingFailed
from multigrain.evaluation.evaluate import Evaluation
from multigrain.evaluation.tasks import HELD_OUT, MTEB, GradedTask, Task, check_unseen, load_task
from multigrain.files import write_json, write_objects
from multigrain.model.files import folder_of
from multigrain.model.precheck import own_pooling
from multigrain.model.roles import ROLES, Embed, with_prompts
from multigrain.pipeline.encoders import base_encoder, trained_encoder
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.stages.false_negatives import own_documents
from multigrain.records import Pair

SAMPLE = 32
"""Pairs by whose texts is seen whether all vectors have become one."""
ONE_VECTOR, MANY = 1e-4, 1e-2
"""The largest 1 - cosine between two texts: below the one all vectors are the same, above the other they are not."""
TINY = 0.05
"""A base that scores less has nothing to lose."""
FEWEST = 5
"""Items of which half may not be lost by chance."""


def evaluate(config: Config, run_dir: RunDir) -> Result:
    """Measure the trained model and its base, item by item."""
    from multigrain.evaluation.evaluate import evaluate as evaluate_task
    from multigrain.evaluation.examples import choose_examples

    train_pairs, held_out = list(read_pairs(run_dir.train_pairs)), list(read_pairs(run_dir.held_out_pairs))
    own = own_documents(run_dir)
    trained_embed = trained_encoder(run_dir.trained, run_dir.vectors, config.evaluation.precision)
    base_embed = base_encoder(config, run_dir)
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}, "documents": {}, "items": {}}
    fault = _one_vector(base_embed, trained_embed, (held_out or train_pairs)[:SAMPLE], run_dir)
    items: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for name in config.evaluation.tasks:
        if name.startswith(MTEB):
            _add(scores, _measured_by_mteb(name.removeprefix(MTEB), config, run_dir))
            continue
        task = load_task(name, held_out, Corpus(run_dir.corpus), own)
        check_unseen(task, train_pairs)
        base, trained = evaluate_task(task, base_embed), evaluate_task(task, trained_embed)
        _add(scores, _compared(task, base, trained, config.seed))
        items += _items(task, base, trained)
        if isinstance(task, RetrievalTask):
            examples += choose_examples(task, base, trained, config.seed)
    write_objects(run_dir.per_query, items)
    write_json(run_dir.examples, examples)
    write_json(run_dir.scores, {**scores, "fault": fault or _half_lost(scores), "cause": other_pooling(config.model)})
    return Result({"tasks": len(config.evaluation.tasks), "queries": len(items)})


def require_sound(run_dir: RunDir) -> None:
    """Make sure that the training has not spoiled the model, by what was measured.

    Raises:
        TrainingFailed: it has.
    """
    known = json.loads(run_dir.scores.read_text(encoding="utf-8"))
    if fault := known.get("fault"):
        told = f"{fault}. The figures are in {run_dir.scores.parent}, and nothing is exported"
        raise _failed(run_dir, told, known.get("cause"))


def _failed(run_dir: RunDir, fault: str, cause: str | None = None) -> TrainingFailed:
    """What to say of a spoiled model; `cause` is what may have spoiled it before the first step."""
    rate = f"training.learning_rate is too high (by default it is {TrainingSection().learning_rate:g})"
    if cause:
        worse = f"{run_dir.folder}: the trained model is far worse than its base: {fault}. Most likely {cause}"
        return TrainingFailed(f"{worse} If that is not it, {rate}. Give the same command again with --force.")
    return TrainingFailed(
        f"{run_dir.folder}: the training has spoiled the model: {fault}. Most likely {rate}. "
        "Lower it, and give the same command again with --force."
    )


def other_pooling(section: ModelSection) -> str | None:
    """What to say where the model begins with another pooling than its base is measured with; anchor's begins as mean.

    A base that names no pooling is measured with the mean, as sentence-transformers loads it.
    """
    folder = folder_of(section.base)
    own = (folder and own_pooling(folder)) or "mean"
    if own == section.pooling or (own, section.pooling) == ("mean", "anchor"):
        return None
    return (
        f'model.pooling = "{section.pooling}" is the cause: the base pools by {own}, so training began with other '
        "vectors than those that the base is measured by. Take the base's pooling, or train for longer."
    )


def _one_vector(base: Embed, trained: Embed, pairs: Sequence[Pair], run_dir: RunDir) -> str | None:
    """What is to be said where the trained model gives all texts the same vector, and the base does not.

    Raises:
        TrainingFailed: its vectors are no numbers, so nothing can be measured.
    """
    spread = _spread(trained, pairs)
    if not np.isfinite(spread):
        raise _failed(run_dir, "its vectors are no numbers")
    if spread >= ONE_VECTOR or _spread(base, pairs) < MANY:
        return None
    return f"all texts have the same vector (the cosine between any two is above {1 - ONE_VECTOR:g})"


def _spread(embed: Embed, pairs: Sequence[Pair]) -> float:
    """The largest 1 - cosine between two queries, or two positives."""
    texts = {"query": [pair.query for pair in pairs], "document": [pair.positive for pair in pairs]}
    vectors = [embed(texts[role], role) for role in ROLES]
    return float(np.max([1 - (each @ each.T).min() for each in vectors]))


def _half_lost(scores: Mapping[str, Any]) -> str | None:
    """What is to be said where more than half of the base's score is lost, surely: held out, or else on every task."""
    tasks = [HELD_OUT] if HELD_OUT in scores["base"] else list(scores["base"])
    lost = []
    for task in tasks:
        metric, before = next(iter(scores["base"][task].items()))
        after, (_, _, high) = scores["trained"][task][metric], scores["difference"][task][metric]
        if before < TINY or after >= before / 2 or (high is not None and high >= 0):
            return None
        if scores["items"].get(task, FEWEST) < FEWEST:
            return None
        lost.append(f"{task}: {metric} was {before:.3f} before training, and is {after:.3f}")
    return "; ".join(lost)


def _add(scores: dict[str, Any], more: Mapping[str, Any]) -> None:
    for side, tasks in more.items():
        scores[side] |= tasks


def _compared(task: Task, base: Evaluation, trained: Evaluation, seed: int) -> dict[str, Any]:
    """The task's metrics, and the differences with their intervals."""
    from multigrain.evaluation.metrics import overall
    from multigrain.evaluation.significance import ids_of, paired_bootstrap, sample_of

    before, after = overall(base.scores.values()), overall(trained.scores.values())
    differences = {}
    for metric in before:
        ids = ids_of(base.scores, metric)
        one, other = (sample_of([side.scores], metric, ids) for side in (base, trained))
        differences[metric] = paired_bootstrap(one, other, seed)
    documents = {task.name: base.documents} if isinstance(task, RetrievalTask) else {}
    results = {"base": before, "trained": after, "difference": differences}
    items = {task.name: len(base.scores)}
    return {"documents": documents, "items": items, **{side: {task.name: result} for side, result in results.items()}}


def _items(task: Task, base: Evaluation, trained: Evaluation) -> Iterator[dict[str, Any]]:
    texts = _texts(task)
    for id, scores in base.scores.items():
        yield {"task": task.name, "query": id, "text": texts[id], "base": scores, "trained": trained.scores[id]}


def _texts(task: Task) -> dict[str, str]:
    """What each item is, for people."""
    if isinstance(task, RetrievalTask):
        return task.queries
    if isinstance(task, GradedTask):
        return {graded.id: graded.query for graded in task.tuples}
    return {str(n): f"{a} | {b}" for n, (a, b) in enumerate(zip(task.first, task.second, strict=True), start=1)}


def _measured_by_mteb(name: str, config: Config, run_dir: RunDir) -> dict[str, Any]:
    """The main score of each task; there is nothing by which it could have an interval."""
    from multigrain.evaluation.mteb_tasks import measure
    from multigrain.model.load import load_base, load_model

    data = None if config.evaluation.mteb_data is None else Path(config.evaluation.mteb_data)
    base = load_base(config.model.base, config.model.max_tokens, "model.base")
    base.prompts = {**with_prompts(base.prompts, config.model.query_prompt, config.model.document_prompt)}
    sides = [
        {f"{MTEB}{task}": {"main score": score} for task, score in measure(name, model, results, data).items()}
        for model, results in (
            (base, run_dir.mteb("base")),
            (load_model(run_dir.trained), run_dir.mteb("trained")),
        )
    ]
    differences = {
        task: {metric: [sides[1][task][metric] - value, None, None] for metric, value in metrics.items()}
        for task, metrics in sides[0].items()
    }
    return {"base": sides[0], "trained": sides[1], "difference": differences}
