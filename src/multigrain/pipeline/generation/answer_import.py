"""Import answers that another engine wrote into the store of a run.

A call is kept under a digest of its answer, so that the same line counts once, however often it is imported. An input
may have several answers; all of them are paid for, and the first usable one settles it.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.key_table import KeyTable, exact_key
from multigrain.errors import DataError, LLMError
from multigrain.llm.batch_files import AnswerLine, read_answers
from multigrain.llm.budget import Usage
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Ledger
from multigrain.llm.prompted_input import Prompted
from multigrain.pipeline.generation.ask import known_prompts
from multigrain.pipeline.generation.open_requests import known_dialect, next_step, open_jobs, opened, settled_plan
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import counted

COMMIT_EVERY = 1000
"""Number of lines between two commits; a kill loses the lines since the last one, which the next import reads again."""
EXPORT_FIRST = "Run: multigrain export-requests RUN.toml --shards N --output FOLDER"

GO_ON = "Export again, or leave the rest to multigrain run RUN.toml, which asks llm.base_url."


def answer_files(places: Iterable[Path]) -> list[Path]:
    """Return the files of answers: those given, and the `.jsonl` files below the folders given.

    Raises:
        DataError: a path does not exist, or a folder has no such file.
    """
    files: list[Path] = []
    for place in places:
        found = sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]
        if not found or not place.exists():
            fault = "holds no .jsonl file" if place.is_dir() else "does not exist"
            raise DataError(place, f"{fault}. Give the files that the engine wrote, or their folder.")
        files += found
    return files


def import_files(config: Config, run_dir: RunDir, files: Sequence[Path]) -> str:
    """Put the answers into the store, and return a report.

    All lines are read once before the first is booked, so that faults in them change nothing.

    Args:
        config: the run.
        run_dir: its folder, with the lock.
        files: see `answer_files`.

    Raises:
        DataError: a line is not an answer, there is none, or none belongs to the run.
    """
    with opened(config, run_dir) as ledger:
        known = _Bounds(config, ledger, known_prompts(with_known_style(config, run_dir), run_dir))
        _check(files, known)
        counts = _book(ledger, known, files)
        ledger.store.commit()
        return "\n".join([*counts.lines(), *_what_is_open(config, run_dir, ledger)])


class _Bounds:
    """Upper bounds of the usage of all requests of a run, by key; 30 to 50 bytes each."""

    def __init__(self, config: Config, ledger: Ledger, prompts: Iterable[Prompted[Any]]) -> None:
        self._ledger = ledger
        self._numbers = KeyTable()
        self._prompt_tokens, self._completion_tokens = array("I"), array("I")
        dialect: Dialect | None = None
        for prompted in prompts:
            request = prompted.request
            dialect = dialect or known_dialect(config, ledger.store, request)
            if self._numbers.setdefault(exact_key(request.key), len(self._prompt_tokens)) == len(self._prompt_tokens):
                bound = ledger.budget.bound(request.suited(dialect))
                self._prompt_tokens.append(bound.prompt_tokens)
                self._completion_tokens.append(bound.completion_tokens)

    def __contains__(self, key: str) -> bool:
        return exact_key(key) in self._numbers

    def of(self, key: str) -> Usage:
        """Return the bound of the next call for a key: after a truncated reply, its token limit is doubled."""
        number = self._numbers.get(exact_key(key))
        assert number is not None
        replies = self._ledger.store.replies(key)
        doubled = [2 * limit for _, limit, answer in replies if answer.finish_reason == "length"]
        limit = max([self._completion_tokens[number], *doubled])
        return self._ledger.budget.usage(self._prompt_tokens[number], limit)


@dataclass
class _Counts:
    """What became of the lines."""

    answers: int = 0
    errors: int = 0
    error: str = ""
    """The first of the errors, as an example."""
    known: int = 0
    """Lines that were imported before."""
    unknown: int = 0
    in_batch: int = 0
    cut: int = 0

    def lines(self) -> list[str]:
        """Describe the counts that are not 0."""
        lines = [f"{counted(self.answers, 'answers')} imported"]
        if self.errors:
            lines.append(f"{counted(self.errors, 'errors')}, whose requests stay open, for example: {self.error}")
        told = {
            "imported before": self.known,
            "to requests that this run does not have": self.unknown,
            "to requests that are in a batch; take these back with: multigrain synthesize RUN.toml --retry batched": (
                self.in_batch
            ),
            "cut off at the end of a file": self.cut,
        }
        return lines + [f"{counted(count, 'lines')} {what}" for what, count in told.items() if count]


def _lines(files: Iterable[Path]) -> Iterator[AnswerLine | None]:
    for path in files:
        yield from read_answers(path)


def _check(files: Sequence[Path], known: _Bounds) -> None:
    """Read all lines.

    Raises:
        DataError: a line is not an answer, there is none, or none belongs to the run.
    """
    where = files[0] if len(files) == 1 else f"{files[0]} and {counted(len(files) - 1, 'other files')}"
    lines = belonging = 0
    for line in _lines(files):
        if line is not None:
            lines += 1
            belonging += line.key in known
    if not lines:
        raise DataError(where, "holds no answer. Give the files that the engine wrote.")
    if not belonging:
        found = f"none of {counted(lines, 'answers')} belongs to a request of this run"
        wanted = "Give the answers to its own requests, and the settings that they were exported with"
        raise DataError(where, f"{found}. {wanted}. {EXPORT_FIRST}")


def _book(ledger: Ledger, known: _Bounds, files: Sequence[Path]) -> _Counts:
    """Record each answer and error that belongs to the run as a call, once."""
    store, counts = ledger.store, _Counts()
    for number, line in enumerate(_lines(files), start=1):
        if line is None:
            counts.cut += 1
        elif line.key not in known:
            counts.unknown += 1
        elif store.is_batched(line.key):
            counts.in_batch += 1
        elif store.has_call(line.key, name := f"import-{line.digest}"):
            counts.known += 1
        else:
            ledger.book(line.key, known.of(line.key), line.outcome, name)
            if isinstance(line.outcome, LLMError):
                counts.errors += 1
                counts.error = counts.error or str(line.outcome)
            else:
                counts.answers += 1
        if number % COMMIT_EVERY == 0:
            store.commit()
    return counts


def _what_is_open(config: Config, run_dir: RunDir, ledger: Ledger) -> list[str]:
    """Settle the inputs with usable answers, and describe the open ones among the next requests."""
    plan = settled_plan(config, run_dir, ledger)
    jobs, unusable, fault = 0, 0, ""
    for job in open_jobs(ledger, plan):
        jobs += 1
        if job.error:
            unusable += 1
            fault = fault or str(job.error)
    ledger.store.commit()
    if not jobs:
        return [f"{plan.description}: every request is answered or parked", next_step(config, run_dir)]
    lines = [f"{plan.description}: {counted(jobs, 'requests')} open. {GO_ON}"]
    if unusable:
        lines.append(f"{counted(unusable, 'answers')} cannot be used, for example: {fault}")
    return lines
