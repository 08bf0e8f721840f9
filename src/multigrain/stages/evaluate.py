"""Measure the trained model beside its base."""

from collections.abc import Iterable
from typing import Any

from multigrain.config import Config
from multigrain.encoders import base_encoder, trained_encoder
from multigrain.evaluation.evaluate import check_unseen, load_task
from multigrain.jsonl import read_documents, read_pairs, write_json, write_objects
from multigrain.rundir import RunDir
from multigrain.stages import Result


def evaluate(config: Config, run_dir: RunDir) -> Result:
    """Measure the trained model and its base, query by query."""
    from multigrain.evaluation.compare import paired_bootstrap
    from multigrain.evaluation.evaluate import evaluate as evaluate_task
    from multigrain.evaluation.examples import choose_examples
    from multigrain.evaluation.metrics import METRICS

    train_pairs = list(read_pairs(run_dir.train_pairs))
    held_out, documents = list(read_pairs(run_dir.held_out_pairs)), list(read_documents(run_dir.corpus))
    before, after = base_encoder(config, run_dir), trained_encoder(run_dir.trained, run_dir.vectors)
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}}
    per_query: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for name in config.evaluation.tasks:
        task = load_task(name, held_out, documents)
        check_unseen(task, train_pairs)
        base, trained = evaluate_task(task, before), evaluate_task(task, after)
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


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
