"""Plan the requests to the language model at each step of a run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.jsonl import read_candidates, read_documents, read_pairs
from multigrain.data.sampling import choose
from multigrain.files import count_lines
from multigrain.llm.clients.factory import model_name
from multigrain.llm.prompted_input import UNSETTLED, Parked, Prompted
from multigrain.llm.store import AnswerStore
from multigrain.model.precheck import Instruction, precheck_prompts
from multigrain.pipeline.run_dir import RunDir, WritingFiles
from multigrain.records import Candidate, Pair
from multigrain.synthesis.negatives import plan_negatives, plan_repairs, requests_each
from multigrain.synthesis.queries import WrittenQuery, plan_queries
from multigrain.synthesis.search_tasks import SearchTask, choose_tasks, plan_brainstorm, plan_pairs
from multigrain.synthesis.shown_texts import one_line
from multigrain.synthesis.verdicts import plan_verdicts


@dataclass(frozen=True)
class Plan:
    """Inputs that the language model is asked about together.

    Args:
        description: text of the progress bar.
        count: number of prompts.
        prompts: function that returns an iterator over all prompts.
    """

    description: str
    count: int
    prompts: Callable[[], Iterator[Prompted[Any]]]

    def of_source(self, name: str) -> "Plan":
        """Return the plan with inputs that begin with the name of a source; an empty name changes nothing."""

        def prompts() -> Iterator[Prompted[Any]]:
            return (replace(prompted, input=f"{name}/{prompted.input}") for prompted in self.prompts())

        return replace(self, prompts=prompts) if name else self

    def is_settled(self, run_dir: RunDir) -> bool:
        """Return whether each input is answered or parked."""
        outcomes = self.outcomes(run_dir)
        return not any(isinstance(outcome, Parked) and outcome.reason == UNSETTLED for outcome in outcomes)

    def outcomes(self, run_dir: RunDir) -> Iterator[list[Any] | Parked]:
        """Yield the outcome of each input, in order: its records, or the reason for their absence."""
        if not self.count:
            return
        with AnswerStore(run_dir.store) as store:
            for prompted in self.prompts():
                yield prompted.outcome(store)


def negatives(config: Config, run_dir: RunDir) -> Plan:
    """Plan the negatives of the training pairs; the pairs are read one by one."""
    pairs = count_lines(run_dir.train_pairs) if config.synthesis.limit != 0 else 0

    def prompts() -> Iterator[Prompted[list[Candidate]]]:
        if not pairs:
            return iter(())
        return plan_negatives(config, partial(read_pairs, run_dir.train_pairs), pairs, model_name(config.llm))

    return Plan("writing negatives", requests_each(config) * config.pairs_asked(pairs), prompts)


def repairs(config: Config, run_dir: RunDir, missing: Mapping[str, Sequence[int]], attempt: int) -> Plan:
    """Plan another attempt at the grades that stayed empty; `missing` has them by the id of the pair."""

    def prompts() -> Iterator[Prompted[list[Candidate]]]:
        return plan_repairs(config, partial(read_pairs, run_dir.train_pairs), missing, model_name(config.llm), attempt)

    together = config.prompt_style == "all-grades"
    count = len(missing) if together else sum(len(grades) for grades in missing.values())
    return Plan(f"repairing negatives ({attempt})", count, prompts)


def queries(config: Config, files: WritingFiles) -> Plan:
    """Plan the queries of passages (mode "corpus"), for as many passages as training can use."""
    count, most = count_lines(files.passages), config.passages_asked

    def prompts() -> Iterator[Prompted[list[WrittenQuery]]]:
        passages = choose(read_documents(files.passages), count, most, config.seed)
        return plan_queries(config, passages, model_name(config.llm))

    return Plan("writing queries", min(count, most) * config.synthesis.queries_per_passage, prompts)


def brainstorm(config: Config) -> Plan:
    """Plan the brainstorming of search tasks (mode "tasks", first step)."""

    def prompts() -> Iterator[Prompted[list[SearchTask]]]:
        return plan_brainstorm(config, model_name(config.llm))

    return Plan("brainstorming tasks", sum(1 for _ in prompts()), prompts)


def synthetic_pairs(config: Config, chosen: Sequence[SearchTask]) -> Plan:
    """Plan pairs for the chosen search tasks (mode "tasks", second step)."""

    def prompts() -> Iterator[Prompted[list[Pair]]]:
        return plan_pairs(config, chosen, model_name(config.llm))

    return Plan("inventing pairs", len(chosen) * config.pairs_invented_each, prompts)


def verdicts(config: Config, run_dir: RunDir, candidates: Path) -> Plan:
    """Plan verdicts on whether candidates answer the query of their pair, as (id of the pair, text, rating)."""

    def prompts() -> Iterator[Prompted[list[tuple[str, str, int]]]]:
        for pair, wanted in by_pair(read_pairs(run_dir.train_pairs), read_candidates(candidates)):
            if wanted:
                yield from plan_verdicts(config, pair, wanted, model_name(config.llm))

    return Plan("rating candidates", count_lines(candidates), prompts)


def pair_steps(config: Config, run_dir: RunDir, source: str = "") -> list[Plan]:
    """Plan what is asked for the pairs of a source, step by step.

    The prompts of the second step depend on the answers to the first: they are those that follow from the answers so
    far.

    Args:
        config: the run with this source alone.
        run_dir: the folder of the whole run.
        source: the name of the source, empty for a run of one source.
    """
    if config.synthesis.mode == "corpus":
        steps = [queries(config, files_of(run_dir, source))]
    else:
        steps = [brainstorm(config), synthetic_pairs(config, brainstormed_tasks(config, run_dir))]
    return [step.of_source(source) for step in steps]


def files_of(run_dir: RunDir, source: str) -> WritingFiles:
    """Return the files of a source whose pairs are written; the name is empty for a run of one source."""
    return run_dir.source(source) if source else run_dir


def brainstormed_tasks(config: Config, run_dir: RunDir) -> list[SearchTask]:
    """Return the search tasks to invent pairs for (mode "tasks"), from the brainstorming so far."""
    found: list[SearchTask] = []
    for outcome in brainstorm(config).outcomes(run_dir):
        if not isinstance(outcome, Parked):
            found += outcome
    return choose_tasks(found, config.synthesis.tasks)


def precheck_tasks(config: Config, tasks: Iterable[SearchTask]) -> None:
    """Check search tasks as the instructions of their pairs, before these are paid for.

    Raises:
        ConfigError: see `precheck_prompts`.
    """
    instructions = (Instruction(one_line(task.text), "of a search task", is_trained=True) for task in tasks)
    precheck_prompts(config.model, config.training.max_tokens, instructions)


def ids_to_write_for(config: Config, run_dir: RunDir) -> set[str]:
    """Return the ids of the pairs for which the language model writes negatives."""
    if not requests_each(config):
        return set()
    count = count_lines(run_dir.train_pairs)
    asked = config.pairs_asked(count)
    return {pair.id for pair in choose(read_pairs(run_dir.train_pairs), count, asked, config.seed)}
