"""Write the pairs of a run or of a source: queries for passages, or pairs for search tasks in some fields."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from multigrain.config import Config
from multigrain.data.corpus_file import Corpus
from multigrain.data.distinct_documents import Documents
from multigrain.data.jsonl import write_records
from multigrain.data.named_source import named
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.split_data import prepare, split_written
from multigrain.errors import DataError
from multigrain.files import write_json, write_objects
from multigrain.grading.query_filter import FilteredQueries, filter_queries
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.answers import Answers
from multigrain.pipeline.run_dir import RunDir, WritingFiles
from multigrain.pipeline.stages import Result
from multigrain.pipeline.stages.data import fit, keep, keep_all, keep_pairs
from multigrain.records import Document, Pair, to_json
from multigrain.synthesis.queries import WrittenQuery
from multigrain.synthesis.search_tasks import SearchTask
from multigrain.terminal import listed, say


def pairs(config: Config, run_dir: RunDir) -> Result:
    """Write the pairs, and filter them before negatives are paid for."""
    answers = Answers(run_dir, run_dir.parked_pairs)
    if config.synthesis.mode == "corpus":
        return _from_corpus(config, run_dir, answers)
    return _from_fields(config, run_dir, answers)


def _from_corpus(config: Config, run_dir: RunDir, answers: Answers) -> Result:
    queries: list[WrittenQuery] = list(answers.ask(config, plans.queries(config, run_dir)))
    written = _pairs_of(queries)
    filtered = _filter(config, run_dir, run_dir, written, Corpus(run_dir.corpus))
    held_out = {query.id for query in queries if query.passage.split == "held_out"}
    train = [pair for pair in filtered.kept if pair.id not in held_out]
    test = [pair for pair in filtered.kept if pair.id in held_out]
    split = fit(config, replace(split_written(train, test), known=written), "data.corpus", drop_leaked=True)
    return _result(answers, len(filtered.dropped), keep_pairs(split, run_dir))


def _from_fields(config: Config, run_dir: RunDir, answers: Answers) -> Result:
    tasks = _search_tasks(config, run_dir, answers)
    written: list[Pair] = list(answers.ask(config, plans.synthetic_pairs(config, tasks)))
    filtered = _filter(config, run_dir, run_dir, written, _positives(written))
    split = replace(split_written(filtered.kept, None, config), known=written)
    split = fit(config, split, "synthesis.domains", drop_leaked=True)
    return _result(answers, len(filtered.dropped), {"tasks_taken": len(tasks), **keep(split, run_dir)})


def pairs_of_sources(config: Config, run_dir: RunDir) -> Result:
    """Write and filter the pairs of the sources that have none, then read and split all sources as if given."""
    answers = Answers(run_dir, run_dir.parked_pairs)
    dropped: list[Pair] = []
    sections = {section.name: section for section in config.data.written_sources}
    for name, own in config.writing.items():
        say(f"  source {name}:")
        filtered = _written_for(name, own, run_dir, answers)
        dropped += [named(each.pair, sections[name]) for each in filtered.dropped]
        write_records(run_dir.source(name).pairs, filtered.kept)
        if not filtered.kept:
            found = f"the filters dropped all {len(filtered.dropped)} written pairs"
            advice = f"See {run_dir.source(name).query_report}, and try another language model"
            raise DataError(f"source {name}", f"{found}. {advice}.")
    split = prepare(_with_written(config, run_dir)).knowing(dropped)
    return _result(answers, len(dropped), keep_all(fit(config, split, config.data.origin, drop_leaked=True), run_dir))


def _with_written(config: Config, run_dir: RunDir) -> Config:
    """Return the run with the files of written pairs as sources of given ones."""
    sources = [
        section
        if section.mode == "pairs"
        else section.model_copy(update={"pairs": str(run_dir.source(section.name).pairs)})
        for section in config.data.sources
    ]
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})


def _written_for(name: str, config: Config, run_dir: RunDir, answers: Answers) -> FilteredQueries:
    """Have the pairs of one of several sources written; `config` is the run with this source alone."""
    files = run_dir.source(name)
    if config.synthesis.mode == "corpus":
        written = _pairs_of(answers.ask(config, plans.queries(config, files).of_source(name)))
        return _filter(config, run_dir, files, written, sample_passages(config).documents)
    tasks = _search_tasks(config, run_dir, answers, name)
    written = list(answers.ask(config, plans.synthetic_pairs(config, tasks).of_source(name)))
    return _filter(config, run_dir, files, written, _positives(written))


def _search_tasks(config: Config, run_dir: RunDir, answers: Answers, source: str = "") -> list[SearchTask]:
    """Have search tasks invented, and choose those that get pairs."""
    found = list(answers.ask(config, plans.brainstorm(config).of_source(source)))
    tasks = plans.brainstormed_tasks(config, run_dir)
    if not tasks:
        raise DataError("synthesis.domains", "the language model named no search task. Try another model or domain.")
    say(f"  {len(found)} tasks named, {len(tasks)} chosen: {listed(Counter(task.kind for task in tasks))}")
    plans.precheck_tasks(config, tasks)
    chosen = ({"task": task.text, "kind": task.kind, "field": task.field} for task in tasks)
    write_objects(plans.files_of(run_dir, source).search_tasks, chosen)
    return tasks


def _pairs_of(queries: Iterable[WrittenQuery]) -> list[Pair]:
    """Return the pair of each written query and its passage."""
    return [Pair(query.id, query.query, query.passage.text, group=query.passage.group) for query in queries]


def _positives(written: Iterable[Pair]) -> list[Document]:
    """Return the positives as the corpus."""
    return [Document(pair.id, pair.positive) for pair in written]


def _filter(
    config: Config, run_dir: RunDir, files: WritingFiles, written: list[Pair], documents: Documents | Sequence[Document]
) -> FilteredQueries:
    filtered = filter_queries(written, documents, judge_encoder(config, run_dir), config.grading, config.seed)
    rules = Counter(each.rule for each in filtered.dropped)
    dropped = [{**to_json(each.pair), "rule": each.rule, "value": each.value} for each in filtered.dropped]
    write_objects(files.dropped_queries, dropped)
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
    write_json(files.query_report, report)
    say(f"  queries: {len(written)} written, {len(filtered.kept)} kept; dropped: {listed(rules) or 'none'}")
    return filtered


def _result(answers: Answers, dropped: int, counts: dict[str, int]) -> Result:
    asked = {
        "pair_requests": answers.requests,
        "pairs_parked": answers.parked,
        "queries_dropped": dropped,
    }
    return answers.result("pairs", {**asked, **counts})
