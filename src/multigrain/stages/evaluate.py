"""Measure the trained model beside its base."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus import Corpus
from multigrain.data.known import own_documents
from multigrain.data.sources import PYTHON_DOCS
from multigrain.encoders import base_encoder, trained_encoder
from multigrain.evaluation.evaluate import Evaluation
from multigrain.evaluation.tasks import HELD_OUT, MTEB, GradedTask, Task, check_unseen, load_queries, load_task
from multigrain.jsonl import read_pairs, write_json, write_objects
from multigrain.progress import say
from multigrain.rundir import RunDir
from multigrain.stages import Result
from multigrain.vectors import with_prompts

FEW = 20
"""Items of which a resample says little about others."""


def evaluate(config: Config, run_dir: RunDir) -> Result:
    """Measure the trained model and its base, item by item."""
    from multigrain.evaluation.evaluate import evaluate as evaluate_task
    from multigrain.evaluation.examples import choose_examples

    train_pairs, held_out = list(read_pairs(run_dir.train_pairs)), list(read_pairs(run_dir.held_out_pairs))
    own = own_documents(run_dir)
    trained_embed = trained_encoder(run_dir.trained, run_dir.vectors, config.evaluation.precision)
    base_embed = base_encoder(config, run_dir)
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}, "documents": {}}
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
        if len(base.scores) < FEW:
            say(f"  {task.name}: {len(base.scores)} items are few; do not trust the interval")
        if isinstance(task, RetrievalTask):
            examples += choose_examples(task, base, trained, config.seed)
    write_objects(run_dir.per_query, items)
    write_json(run_dir.examples, examples)
    write_json(run_dir.scores, scores)
    return Result({"tasks": len(config.evaluation.tasks), "queries": len(items)})


def foresee(config: Config) -> None:
    """Make sure that the tasks can be read, and that mteb has those that it is asked for: better now than after hours.

    The stage `data` reads them too, but where pairs are written it comes after the first request.

    Raises:
        ConfigError, RunError: see `multigrain.evaluation.mteb_tasks.check_names`.
        DataError: see `multigrain.evaluation.tasks.load_task`.
    """
    if config.data.pairs in (None, PYTHON_DOCS):
        for name in config.evaluation.tasks:
            if name != HELD_OUT and not name.startswith(MTEB):
                load_queries(name, [])
    if names := [name.removeprefix(MTEB) for name in config.evaluation.tasks if name.startswith(MTEB)]:
        from multigrain.evaluation.mteb_tasks import check_names

        check_names(names)


def _add(scores: dict[str, Any], more: Mapping[str, Any]) -> None:
    for side, tasks in more.items():
        scores[side] |= tasks


def _compared(task: Task, base: Evaluation, trained: Evaluation, seed: int) -> dict[str, Any]:
    """The task's metrics, and the differences with their intervals."""
    from multigrain.evaluation.compare import paired_bootstrap
    from multigrain.evaluation.comparison import ids_of, sample_of
    from multigrain.evaluation.metrics import overall

    before, after = overall(base.scores.values()), overall(trained.scores.values())
    differences = {}
    for metric in before:
        ids = ids_of(base.scores, metric)
        one, other = (sample_of([side.scores], metric, ids) for side in (base, trained))
        differences[metric] = paired_bootstrap(one, other, seed)
    documents = {task.name: base.documents} if isinstance(task, RetrievalTask) else {}
    results = {"base": before, "trained": after, "difference": differences}
    return {"documents": documents, **{side: {task.name: result} for side, result in results.items()}}


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
