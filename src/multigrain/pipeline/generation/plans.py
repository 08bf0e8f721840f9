"""What is asked at each step of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.jsonl import read_candidates, read_documents, read_pairs
from multigrain.data.sampling import choose
from multigrain.files import count_lines
from multigrain.llm.clients.factory import model_name
from multigrain.llm.prompted import Parked, Prompted
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.run_dir import RunDir
from multigrain.synthesis.negatives import plan, plan_repairs, requests_each
from multigrain.synthesis.queries import WrittenQuery, plan_queries
from multigrain.synthesis.search_tasks import SearchTask, choose_tasks, plan_brainstorm, plan_pairs
from multigrain.synthesis.verdicts import plan_verdicts


@dataclass(frozen=True)
class Work:
    """Inputs that are asked about together."""

    description: str
    count: int
    tasks: Callable[[], Iterator[Prompted[Any]]]
    """Each call goes through all of them once more."""


def negatives(config: Config, run_dir: RunDir) -> Work:
    """All that is asked to have the negatives written; the pairs are read one by one."""
    if config.synthesis.limit == 0:
        return Work("writing negatives", 0, lambda: iter(()))
    pairs = count_lines(run_dir.train_pairs)
    return Work(
        "writing negatives",
        count_requests(config, pairs),
        lambda: plan(config, lambda: read_pairs(run_dir.train_pairs), pairs, model_name(config.llm)),
    )


def repairs(config: Config, run_dir: RunDir, missing: Mapping[str, Sequence[int]], attempt: int) -> Work:
    """What is asked once more, for grades that stayed empty."""
    together = config.prompt_style == "all-grades"
    return Work(
        f"repairing negatives ({attempt})",
        len(missing) if together else sum(len(grades) for grades in missing.values()),
        lambda: plan_repairs(config, lambda: read_pairs(run_dir.train_pairs), missing, model_name(config.llm), attempt),
    )


def queries(config: Config, run_dir: RunDir) -> Work:
    """Mode "corpus": what is asked to have queries written for the passages, as many as training has use for."""
    count, most = count_lines(run_dir.passages), config.passages_asked

    def tasks() -> Iterator[Prompted[list[WrittenQuery]]]:
        passages = choose(read_documents(run_dir.passages), count, most, config.seed)
        return plan_queries(config, passages, model_name(config.llm))

    return Work("writing queries", min(count, most) * config.synthesis.queries_per_passage, tasks)


def brainstorm(config: Config) -> Work:
    """Mode "tasks", first stage."""

    def tasks() -> Iterator[Prompted[list[SearchTask]]]:
        return plan_brainstorm(config, model_name(config.llm))

    return Work("brainstorming tasks", sum(1 for _ in tasks()), tasks)


def inventions(config: Config, chosen: Sequence[SearchTask]) -> Work:
    """Mode "tasks", second stage: pairs for the tasks."""
    count = len(chosen) * config.pairs_invented_each
    return Work("inventing pairs", count, lambda: plan_pairs(config, chosen, model_name(config.llm)))


def verdicts(config: Config, run_dir: RunDir, candidates: Path) -> Work:
    """Whether texts answer the query of their pair: (pair's id, text, rating) each."""

    def tasks() -> Iterator[Prompted[list[tuple[str, str, int]]]]:
        for pair, wanted in by_pair(read_pairs(run_dir.train_pairs), read_candidates(candidates)):
            if wanted:
                yield from plan_verdicts(config, pair, wanted, model_name(config.llm))

    return Work("asking whether they answer", count_lines(candidates), tasks)


def current(config: Config, run_dir: RunDir) -> Work:
    """What is to be asked next: for the pairs as long as the run has none, then for the negatives."""
    mode = config.synthesis.mode
    if mode == "negatives" or "pairs" in run_dir.stages():
        return negatives(config, run_dir)
    if mode == "corpus":
        return queries(config, run_dir)
    chosen = found_tasks(config, run_dir)
    return inventions(config, chosen) if chosen else brainstorm(config)


def found_tasks(config: Config, run_dir: RunDir) -> list[SearchTask]:
    """Mode "tasks": those to invent pairs for, as far as the brainstorming has come."""
    found = (outcome for outcome in outcomes(run_dir, brainstorm(config)) if not isinstance(outcome, Parked))
    return choose_tasks((task for tasks in found for task in tasks), config.synthesis.tasks)


def count_requests(config: Config, pairs: int) -> int:
    """How many requests these pairs make."""
    return requests_each(config) * min(config.pairs_asked, pairs)


def asked_about(config: Config, run_dir: RunDir) -> set[str]:
    """The ids of the pairs that the language model writes negatives for."""
    if not requests_each(config):
        return set()
    count = count_lines(run_dir.train_pairs)
    return {pair.id for pair in choose(read_pairs(run_dir.train_pairs), count, config.pairs_asked, config.seed)}


def outcomes(run_dir: RunDir, work: Work) -> Iterator[list[Any] | Parked]:
    """What came of each input, in their order: its records, or why there are none."""
    if not work.count:
        return
    with AnswerStore(run_dir.store) as store:
        for task in work.tasks():
            yield task.outcome(store)
