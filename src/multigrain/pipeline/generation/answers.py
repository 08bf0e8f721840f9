"""Ask the language model for a stage, and account for every input: an answer, or the reason for its absence."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.files import atomic_file, to_line
from multigrain.llm.prompted_input import Parked
from multigrain.pipeline.generation import ask
from multigrain.pipeline.generation.plans import Plan
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.terminal import say

REASON_WIDTH = 100
"""Maximum number of characters of a reason to show."""


class Answers:
    """The account of the requests in a stage: counts, and a file of the inputs without an answer.

    Args:
        run_dir: the run folder.
        parked_path: the file of the inputs without an answer; it is overwritten.
    """

    def __init__(self, run_dir: RunDir, parked_path: Path) -> None:
        self.requests = self.sent = self.parked = self.answered = 0
        self._run_dir, self._path = run_dir, parked_path
        self._parked: list[Parked] = []

    def ask(self, config: Config, plan: Plan) -> Iterator[Any]:
        """Ask until all inputs are answered or parked, and yield the records of the answers in the order of the inputs.

        Raises:
            LLMReplyError: none of the inputs has a usable answer.
        """
        self.sent += ask.ask_all(config, self._run_dir, plan)
        reasons: Counter[str] = Counter()
        details: dict[str, str] = {}
        answered = 0
        for outcome in plan.outcomes(self._run_dir):
            self.requests += 1
            if isinstance(outcome, Parked):
                self._parked.append(outcome)
                reasons[outcome.reason] += 1
                details.setdefault(outcome.reason, outcome.detail)
            else:
                answered += 1
                yield from outcome
        self.parked += reasons.total()
        self.answered += answered
        with atomic_file(self._path) as file:
            file.writelines(to_line(asdict(parked)) for parked in self._parked)
        for reason, times in reasons.most_common():
            say(f"  {times:>7} without an answer: {reason:<11} for example: {details[reason][:REASON_WIDTH]}")
        if reasons and not answered:
            ((reason, _),) = reasons.most_common(1)
            raise LLMReplyError(
                f"none of the {reasons.total()} inputs has a usable answer ({self._path}); most often {reason}: "
                f"{details[reason]} After fixing this, run: multigrain synthesize RUN.toml --retry {reason}"
            )

    def result(self, stage: str, counts: dict[str, int]) -> Result:
        """Return the report of the stage, with its cost: everything spent in the folder, minus that of other stages."""
        others = [record for name, record in self._run_dir.stages().items() if name != stage]
        _, spent = ask.spent(self._run_dir)
        tokens = spent.tokens - sum(record.tokens for record in others)
        return Result(counts, max(tokens, 0), max(spent.cost - sum(record.cost for record in others), 0.0))
