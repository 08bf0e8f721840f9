"""Compare engines that write for thousands of inputs: speed, cost, and losses after faults.

    python -m benchmarks.synthesis_speed [--engines multigrain,openai] [--cases clean,faults] [--repeats 3]

multigrain, a hand-written loop around the `openai` client, distilabel, curator and DataDesigner send requests to a mock
server on this machine, with the same prompts, the same faults and 64 requests under way: see `cases.py` for the cases
and `engines/` for the use of each engine. Repetitions go round by round over the engines. Each measurement is kept at
once in the folder results, so the same command resumes after an interruption; it also writes the tables of
docs/benchmarks.md. Missing environments of other engines are created with pip. Linux.
"""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.shared.environment import code, parser_of, require_commit
from benchmarks.shared.pages import put_into
from benchmarks.shared.result_files import open_result
from benchmarks.synthesis_speed.cases import DEFINITIONS, LATENCY, OWN, SHARED, Figures, Setting
from benchmarks.synthesis_speed.engines import CONCURRENCY, ENGINES
from benchmarks.synthesis_speed.tables import tables
from multigrain.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
SOURCE = "python -m benchmarks.synthesis_speed"
CASES = SHARED | OWN
LIMIT = 120.0


def main() -> None:
    options = _options()
    versions = {name: ENGINES[name].install(options.environments) for name in options.engines}
    results = Results(options.results or open_result(RESULTS, "mock-server"), versions)
    for name, case, repeat in _plan(options):
        setting = Setting(ENGINES[name], options.inputs, repeat, options.environments, options.limit)
        if results.missing(setting, case):
            print(f"{case} {name} {repeat + 1}", end=": ", flush=True)
            require_commit(options)
            figures = CASES[case](setting)
            results.add(setting, case, figures)
            print(_in_short(figures), flush=True)
    text = tables(results.measurements, options.inputs)
    print(f"\n{text}")
    if not options.results:
        put_into(PAGE, SOURCE, text)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--engines", type=_names(ENGINES), default=list(ENGINES), help="names, separated by commas")
    parser.add_argument("--cases", type=_names(CASES), default=list(CASES), help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of each case that all engines share")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--environments", type=Path, default=HERE / ".environments", help="their environments")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a command is stopped")
    parser.add_argument("--results", type=Path, help="write into this file, and leave docs/benchmarks.md unchanged")
    return parser.parse_args()


def _names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"found {unknown[0]}; wanted one of {', '.join(known)}")
        return chosen

    return names


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yield (engine, case, repetition): each repetition covers all engines, and starts with another one."""
    for repeat in range(options.repeats):
        first = repeat % len(options.engines)
        for case in (name for name in options.cases if name in SHARED):
            for engine in options.engines[first:] + options.engines[:first]:
                yield engine, case, repeat
    if "multigrain" in options.engines:
        yield from (("multigrain", case, 0) for case in options.cases if case in OWN)


class Results:
    """The file of the measurements."""

    def __init__(self, path: Path, versions: dict[str, dict[str, str]]) -> None:
        self.path = path
        self._versions = versions
        self.measurements: list[dict[str, Any]] = json.loads(path.read_text())["measurements"] if path.exists() else []

    def missing(self, setting: Setting, case: str) -> bool:
        """Return whether nothing was measured with these settings yet."""
        wanted = self._settings(setting, case)
        return not any(wanted.items() <= measured.items() for measured in self.measurements)

    def add(self, setting: Setting, case: str, figures: Figures) -> None:
        """Keep a measurement."""
        context = {**code(), "date": datetime.date.today().isoformat(), "machine": _machine()}
        measured = {**self._settings(setting, case), **context, "figures": figures}
        self.measurements.append(measured)
        self.path.parent.mkdir(exist_ok=True)
        write_json(self.path, {"definitions": DEFINITIONS, "measurements": self.measurements})

    def _settings(self, setting: Setting, case: str) -> dict[str, Any]:
        return {
            "case": case,
            "engine": setting.engine.name,
            "repeat": setting.repeat,
            "seed": setting.seed,
            "inputs": setting.inputs,
            "latency": LATENCY,
            "concurrency": CONCURRENCY,
            "limit": setting.limit,
            "versions": self._versions[setting.engine.name],
        }


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _in_short(figures: Figures) -> str:
    names = ("wall_seconds", "share_of_ideal", "requests", "answered_inputs", "lost_inputs", "paid_twice", "note")
    return ", ".join(f"{name} {figures[name]}" for name in names if figures.get(name) not in (None, "")) or str(figures)


if __name__ == "__main__":
    main()
