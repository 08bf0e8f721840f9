"""Write the pairs of a run that has none: queries for passages, or pairs for search tasks in some fields."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from multigrain.config import Config
from multigrain.data.corpus_file import Corpus
from multigrain.data.split_data import split_written
from multigrain.errors import DataError
from multigrain.files import write_json, write_objects
from multigrain.grading.query_filter import FilteredQueries, filter_queries
from multigrain.model.precheck import Instruction, precheck_prompts
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.answers import Answers
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.stages.data import fit, keep, keep_pairs
from multigrain.records import Document, Pair, to_json
from multigrain.synthesis.queries import WrittenQuery
from multigrain.synthesis.shown_texts import one_line
from multigrain.terminal import listed, say


def pairs(config: Config, run_dir: RunDir) -> Result:
    """Write the pairs, and filter them before negatives are paid for."""
    answers = Answers(run_dir, run_dir.parked_pairs)
    if config.synthesis.mode == "corpus":
        return _from_corpus(config, run_dir, answers)
    return _from_fields(config, run_dir, answers)


def _from_corpus(config: Config, run_dir: RunDir, answers: Answers) -> Result:
    queries: list[WrittenQuery] = list(answers.ask(config, plans.queries(config, run_dir)))
    written = [Pair(query.id, query.query, query.passage.text, group=query.passage.group) for query in queries]
    filtered = _filter(config, run_dir, written, Corpus(run_dir.corpus))
    held_out = {query.id for query in queries if query.passage.split == "held_out"}
    train = [pair for pair in filtered.kept if pair.id not in held_out]
    test = [pair for pair in filtered.kept if pair.id in held_out]
    split = fit(config, replace(split_written(train, test), known=written), "data.corpus", drop_leaked=True)
    return _result(answers, filtered, keep_pairs(split, run_dir))


def _from_fields(config: Config, run_dir: RunDir, answers: Answers) -> Result:
    found = list(answers.ask(config, plans.brainstorm(config)))
    tasks = plans.brainstormed_tasks(config, run_dir)
    if not tasks:
        raise DataError("synthesis.domains", "the language model named no search task. Try another model or domain.")
    say(f"  {len(found)} tasks named, {len(tasks)} chosen: {listed(Counter(task.kind for task in tasks))}")
    named = (Instruction(one_line(task.text), "of a search task", is_trained=True) for task in tasks)
    precheck_prompts(config.model, config.training.max_tokens, named)  # before the pairs are paid for
    write_objects(run_dir.search_tasks, ({"task": t.text, "kind": t.kind, "field": t.field} for t in tasks))
    written: list[Pair] = list(answers.ask(config, plans.synthetic_pairs(config, tasks)))
    documents = [Document(pair.id, pair.positive) for pair in written]
    filtered = _filter(config, run_dir, written, documents)
    split = replace(split_written(filtered.kept, None, config), known=written)
    split = fit(config, split, "synthesis.domains", drop_leaked=True)
    return _result(answers, filtered, {"tasks_taken": len(tasks), **keep(split, run_dir)})


def _filter(config: Config, run_dir: RunDir, written: list[Pair], documents: Sequence[Document]) -> FilteredQueries:
    filtered = filter_queries(written, documents, judge_encoder(config, run_dir), config.grading, config.seed)
    rules = Counter(each.rule for each in filtered.dropped)
    dropped = [{**to_json(each.pair), "rule": each.rule, "value": each.value} for each in filtered.dropped]
    write_objects(run_dir.dropped_queries, dropped)
    before = [rank for _, rank in filtered.ranks]
    after = [rank for _, rank in filtered.kept_ranks]
    report = {
        "written": len(written),
        "kept": len(filtered.kept),
        "dropped": dict(rules.most_common()),
        "median_rank_before": median(before) if before else None,
        "median_rank_after": median(after) if after else None,
        "examples": [{"query": pair.query, "positive": pair.positive} for pair in filtered.kept[:10]],
    }
    write_json(run_dir.query_report, report)
    say(f"  queries: {len(written)} written, {len(filtered.kept)} kept; dropped: {listed(rules) or 'none'}")
    return filtered


def _result(answers: Answers, filtered: FilteredQueries, counts: dict[str, int]) -> Result:
    asked = {
        "pair_requests": answers.requests,
        "pairs_parked": answers.parked,
        "queries_dropped": len(filtered.dropped),
    }
    return answers.result("pairs", {**asked, **counts})
