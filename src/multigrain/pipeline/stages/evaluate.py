"""Measure the trained model, its base and the arms of the baseline."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, starmap
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_pairs
from multigrain.data.record_file import RecordFile
from multigrain.evaluation.by_source import SearchOfSource, evaluate_by_source, searches_by_source, whole_task
from multigrain.evaluation.evaluate import Evaluation, Scores
from multigrain.evaluation.tasks import HELD_OUT, MTEB, GradedTask, Task, check_unseen, load_task, with_instruction
from multigrain.files import write_json, write_objects
from multigrain.model.prompts import prompts_of
from multigrain.model.roles import Embed, template_of
from multigrain.pipeline.arms import arm_encoders, compared_with_others, differences
from multigrain.pipeline.encoders import base_encoder, load_measured_base, trained_encoder
from multigrain.pipeline.known_false_negatives import own_documents
from multigrain.pipeline.retrievers import Retrievers
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.spoiled_model import COMPARED, collapse_fault, lost_score_fault, pooling_cause
from multigrain.pipeline.stages import Result
from multigrain.records import Pair
from multigrain.terminal import say

MAIN_SCORE = "main score"
"""Name of the main score of an mteb task in tables."""


def evaluate(config: Config, run_dir: RunDir) -> Result:
    """Measure the trained model, its base and the arms, item by item."""
    from multigrain.evaluation.examples import choose_examples

    held_out = RecordFile(Pair, read_pairs(run_dir.held_out_pairs), run_dir.folder)
    own = own_documents(run_dir)
    trained_embed = trained_encoder(run_dir.trained, run_dir.vectors, config.evaluation.precision)
    base_embed, arms_embed = base_encoder(config, run_dir), arm_encoders(config, run_dir)
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}, "documents": {}, "items": {}, "others": {}}
    compared = held_out[:COMPARED] or list(islice(read_pairs(run_dir.train_pairs), COMPARED))
    fault = collapse_fault(base_embed, trained_embed, compared, run_dir)
    sides = _Sides(config, run_dir, base_embed, trained_embed)
    measured: list[tuple[Task, Evaluation, Evaluation, dict[str, Evaluation]]] = []
    examples: list[dict[str, Any]] = []
    if config.evaluation.instructions and not template_of(prompts_of(str(run_dir.trained)) or {}):
        say("  evaluation.instructions has no effect: the model was trained without instructions")
    for name in config.evaluation.tasks:
        if name.startswith(MTEB):
            _add(scores, _measured_by_mteb(name.removeprefix(MTEB), config, run_dir))
            continue
        searches = _searches(config, run_dir, held_out, own) if name == HELD_OUT else {}
        if searches:
            task: Task = whole_task(searches, Corpus(run_dir.corpus))
        else:
            task = load_task(name, held_out, Corpus(run_dir.corpus), own)
        task = with_instruction(task, config.evaluation.instructions.get(name))
        check_unseen(task, read_pairs(run_dir.train_pairs))
        base, trained = sides.evaluated(task, searches)
        arms = {arm: _measured(task, embed, searches) for arm, embed in arms_embed.items()}
        _add(scores, _compared(task, base, trained, config.seed))
        if searches:
            scores["by_source"] = _compared_by_source(searches, base, trained, config.seed)
        scores["others"][task.name] = compared_with_others(base, trained, arms, config.seed)
        measured.append((task, base, trained, arms))
        if isinstance(task, RetrievalTask):
            examples += choose_examples(task, base, trained, config.seed)
    count = write_objects(run_dir.per_query, chain.from_iterable(starmap(_items, measured)))
    write_objects(run_dir.per_dev_query, sides.dev_items(arms_embed))
    write_json(run_dir.examples, examples)
    scores["retrieval"] = sides.choices()
    scores["precision"] = trained_embed.precision
    scores["fault"] = fault or lost_score_fault(scores)
    scores["cause"] = pooling_cause(config.model)
    write_json(run_dir.scores, scores)
    return Result({"tasks": len(config.evaluation.tasks), "queries": count})


def _searches(
    config: Config, run_dir: RunDir, held_out: Sequence[Pair], own: Sequence[Pair]
) -> dict[str, SearchOfSource]:
    """Return the search of each source; empty if the run does not have several."""
    names = config.data.source_names
    return searches_by_source(held_out, Corpus(run_dir.corpus), own, names) if names else {}


class _Sides:
    """The base and the trained model, each with all retrievers of the run."""

    def __init__(self, config: Config, run_dir: RunDir, base: Embed, trained: Embed) -> None:
        self._retrievers = Retrievers(config, run_dir)
        self._embeds = {"base": base, "trained": trained}
        self._dev = {name: self._retrievers.dev_searches(embed) for name, embed in self._embeds.items()}
        self._choices = {name: self._retrievers.choice(searches) for name, searches in self._dev.items()}

    def evaluated(self, task: Task, searches: Mapping[str, SearchOfSource]) -> list[Evaluation]:
        """Measure both models on a task; with several sources, by the search of each source."""
        from multigrain.evaluation.evaluate import evaluate

        names = self._retrievers.names
        weights = (choice.weight for choice in self._choices.values())
        measured = zip(self._embeds.values(), weights, strict=True)
        if searches:
            matches = {name: self._retrievers.words(search.task) for name, search in searches.items()}
            return [evaluate_by_source(searches, embed, matches, weight, names) for embed, weight in measured]
        words = self._retrievers.words(task) if isinstance(task, RetrievalTask) else None
        return [evaluate(task, embed, words, weight, names) for embed, weight in measured]

    def dev_items(self, arms: Mapping[str, Embed]) -> Iterator[dict[str, Any]]:
        """Yield the scores of each model, including the arms, on each dev query, if there are any."""
        found = self._dev | {arm: self._retrievers.dev_searches(embed) for arm, embed in arms.items()}
        measured: dict[str, Scores] = {
            name: {id: item for search in searches for id, item in search.scores(search.found.numbers).items()}
            for name, searches in found.items()
        }
        for id in measured["base"]:
            yield {"query": id, **{name: scores[id] for name, scores in measured.items()}}

    def choices(self) -> dict[str, Any]:
        """Return the chosen retriever of each model; empty if only `dense` is measured. Call it last."""
        self._retrievers.clear()
        if not self._retrievers.with_words:
            return {}
        return {name: choice.to_json() for name, choice in self._choices.items()}


def _add(scores: dict[str, Any], more: Mapping[str, Any]) -> None:
    for side, tasks in more.items():
        scores[side] |= tasks


def _compared(task: Task, base: Evaluation, trained: Evaluation, seed: int) -> dict[str, Any]:
    """Return the metrics of both models on the task, and their differences with confidence intervals."""
    from multigrain.evaluation.metrics import overall

    return {
        "documents": {task.name: base.documents} if isinstance(task, RetrievalTask) else {},
        "items": {task.name: len(base.scores)},
        "base": {task.name: overall(base.scores.values())},
        "trained": {task.name: overall(trained.scores.values())},
        "difference": {task.name: differences(base, trained, seed)},
    }


def _measured(task: Task, embed: Embed, searches: Mapping[str, SearchOfSource]) -> Evaluation:
    from multigrain.evaluation.evaluate import evaluate

    return evaluate_by_source(searches, embed) if searches else evaluate(task, embed)


def _compared_by_source(
    searches: Mapping[str, SearchOfSource], base: Evaluation, trained: Evaluation, seed: int
) -> dict[str, Any]:
    """Return for each source what `_compared` returns for all together."""
    found: dict[str, Any] = {"documents": {}, "items": {}, "base": {}, "trained": {}, "difference": {}}
    for search in searches.values():
        _add(found, _compared(search.task, search.of(base), search.of(trained), seed))
    return found


def _items(
    task: Task, base: Evaluation, trained: Evaluation, arms: Mapping[str, Evaluation]
) -> Iterator[dict[str, Any]]:
    texts = _texts(task)
    for id, scores in base.scores.items():
        of_arms = {arm: measured.scores[id] for arm, measured in arms.items()}
        item = {"task": task.name, "query": id, "text": texts[id]}
        yield {**item, "base": scores, "trained": trained.scores[id], **of_arms}


def _texts(task: Task) -> dict[str, str]:
    """Return the text that represents each item in tables, by the id of the item."""
    if isinstance(task, RetrievalTask):
        return task.queries
    if isinstance(task, GradedTask):
        return {graded.id: graded.query for graded in task.tuples}
    return {str(n): f"{a} | {b}" for n, (a, b) in enumerate(zip(task.first, task.second, strict=True), start=1)}


def _measured_by_mteb(name: str, config: Config, run_dir: RunDir) -> dict[str, Any]:
    """Return the main score of each task. Without scores of items, it has no interval."""
    from multigrain.evaluation.mteb_tasks import measure
    from multigrain.model.load import load_model

    data = None if config.evaluation.mteb_data is None else Path(config.evaluation.mteb_data)
    table = config.evaluation.instructions.items()
    given = {task.removeprefix(MTEB): own for task, own in table if task.startswith(MTEB)}
    base_scores = _main_scores(measure(name, load_measured_base(config), run_dir.mteb("base"), data))
    trained = load_model(run_dir.trained)
    trained_scores = _main_scores(measure(name, trained, run_dir.mteb("trained"), data, instructions=given))
    differences: dict[str, dict[str, Any]] = {}
    for task, scores in base_scores.items():
        gain = trained_scores[task][MAIN_SCORE] - scores[MAIN_SCORE]
        differences[task] = {MAIN_SCORE: [gain, None, None]}
    return {"base": base_scores, "trained": trained_scores, "difference": differences}


def _main_scores(measured: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {f"{MTEB}{task}": {MAIN_SCORE: score} for task, score in measured.items()}
