"""Which engine has a language model write for thousands of inputs, at what cost, and what is left after faults?

    python -m benchmarks.synthesis_engine [--engines multigrain openai] [--cases clean faults] [--repeats 3]

multigrain, a loop by hand around the `openai` client, distilabel, curator and DataDesigner ask a mock server on this
machine, with the same prompts, the same faults and 64 requests under way: see `engine_cases.py` for the cases and
`engines/` for how each is used. Repetitions go round by round over the engines. What is measured is kept in
benchmarks/results/synthesis_engine.json after each measurement, so the same command goes on after an interruption; it
also writes the tables of docs/benchmarks.md. Environments of peers that are not there yet are made with pip. Linux.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine_cases import DEFINITIONS, LATENCY, OWN, SHARED, Figures, Setting
from benchmarks.engines import CONCURRENCY, ENGINES
from benchmarks.environment import code, parser_of, require_commit
from benchmarks.pages import put_into
from multigrain.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "synthesis_engine.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"
SOURCE = "tables of benchmarks/synthesis_engine.py"
CASES = SHARED | OWN
LIMIT = 120.0


def main() -> None:
    options = _options()
    versions = {name: ENGINES[name].install(options.environments) for name in options.engines}
    results = Results(options.results, versions)
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
    if options.results == RESULTS:
        put_into(PAGE, SOURCE, text)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--engines", type=_names(ENGINES), default=list(ENGINES), help="names with commas between")
    parser.add_argument("--cases", type=_names(CASES), default=list(CASES), help="names with commas between")
    parser.add_argument("--repeats", type=int, default=3, help="of each case that all engines share")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--environments", type=Path, default=HERE / ".environments", help="folder with one a peer")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a command is stopped")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file leaves docs/benchmarks.md alone")
    return parser.parse_args()


def _names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"found {unknown[0]}; wanted one of {', '.join(known)}")
        return chosen

    return names


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(engine, case, repetition), each repetition over all engines, another one first each time."""
    for repeat in range(options.repeats):
        first = repeat % len(options.engines)
        for case in (name for name in options.cases if name in SHARED):
            for engine in options.engines[first:] + options.engines[:first]:
                yield engine, case, repeat
    if "multigrain" in options.engines:
        yield from (("multigrain", case, 0) for case in options.cases if case in OWN)


class Results:
    """The file that keeps what was measured."""

    def __init__(self, path: Path, versions: dict[str, dict[str, str]]) -> None:
        self.path = path
        self._versions = versions
        self.measurements: list[dict[str, Any]] = json.loads(path.read_text())["measurements"] if path.exists() else []

    def missing(self, setting: Setting, case: str) -> bool:
        """Whether nothing was measured with these settings yet."""
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


# Tables

Column = tuple[str, str, int]
"""Heading, figure, decimals."""
TABLES: dict[str, tuple[str, list[Column]]] = {
    "clean": (
        "No faults",
        [
            ("wall s", "wall_seconds", 1),
            ("window s", "window_seconds", 2),
            ("share of ideal", "share_of_ideal", 2),
            ("CPU-s per 1,000 requests", "cpu_seconds_per_1000_requests", 2),
            ("start CPU-s", "start_cpu_seconds", 1),
            ("memory MB", "memory_mb", 0),
            ("inputs answered", "answered_inputs", 0),
        ],
    ),
    "faults": (
        "5 % each of 429, 500, malformed and cut answers",
        [
            ("wall s", "wall_seconds", 1),
            ("wall / ideal", "wall_of_ideal", 1),
            ("requests", "requests", 0),
            ("inputs answered", "answered_inputs", 0),
            ("with a reason", "inputs_with_reason", 0),
            ("lost", "lost_inputs", 0),
        ],
    ),
    "busy": (
        "5 % of 429 alone",
        [
            ("wall s", "wall_seconds", 1),
            ("answers / s", "throughput", 0),
            ("of the clean throughput", "of_clean", 2),
            ("requests", "requests", 0),
            ("lost", "lost_inputs", 0),
        ],
    ),
    "killed": (
        "`kill -9` once half of the inputs are answered, then the same command again",
        [
            ("paid twice", "paid_twice", 0),
            ("requests in all", "requests", 0),
            ("answered at the kill", "answers_before", 0),
            ("resumed", "resumed", 0),
            ("inputs answered", "answered_inputs", 0),
        ],
    ),
}


def tables(measurements: Sequence[dict[str, Any]], inputs: int) -> str:
    """All tables as Markdown: medians over the repetitions, with the least and the highest where they differ."""
    chosen = [measured for measured in measurements if measured["inputs"] == inputs]
    parts = [_about(chosen, inputs)]
    for case, (title, columns) in TABLES.items():
        if rows := _rows(chosen, case, columns):
            head = ["engine", *(heading for heading, _, _ in columns), "note"]
            parts.append(f"### {title}\n\n" + "\n".join(_line(row) for row in [head, ["---"] * len(head), *rows]))
    parts += [
        f"### multigrain: {case}\n\n{measure.__doc__}\n\n{_listing(measured['figures'])}"
        for case, measure in OWN.items()
        for measured in chosen
        if measured["case"] == case
    ]
    meanings = "\n".join(f"* {name.replace('_', ' ')}: {text}" for name, text in DEFINITIONS.items())
    return "\n\n".join([*parts, f"### What the figures mean\n\n{meanings}"]) + "\n"


def _about(chosen: Sequence[dict[str, Any]], inputs: int) -> str:
    machines = sorted({f"{measured['machine']}, {measured['date']}" for measured in chosen})
    first = {measured["engine"]: next(iter(measured["versions"].items())) for measured in chosen}
    versions = ", ".join(f"{name} {version}" for name, version in first.values())
    repeats = max((measured["repeat"] + 1 for measured in chosen), default=0)
    conditions = f"{inputs} inputs, {LATENCY * 1000:g} ms latency, {CONCURRENCY} requests under way, {repeats} rounds"
    return f"{conditions}: medians (least to highest). {versions}. {'; '.join(machines)}."


def _rows(chosen: Sequence[dict[str, Any]], case: str, columns: list[Column]) -> list[list[str]]:
    rows = []
    for engine in ENGINES:
        found = [m["figures"] for m in chosen if m["case"] == case and m["engine"] == engine]
        if case == "busy":
            found = [_with_share(figures, chosen, engine) for figures in found]
        if found:
            cells = [_cell([figures.get(name) for figures in found], decimals) for _, name, decimals in columns]
            rows.append([engine, *cells, _notes(found)])
    return rows


def _with_share(figures: Figures, chosen: Sequence[dict[str, Any]], engine: str) -> Figures:
    """With the throughput relative to the median of the same engine without faults."""
    clean = [m["figures"].get("throughput") for m in chosen if m["case"] == "clean" and m["engine"] == engine]
    known = [value for value in clean if value]
    if not known or not figures.get("throughput"):
        return figures
    return figures | {"of_clean": figures["throughput"] / statistics.median(known)}


def _cell(values: Sequence[Any], decimals: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if isinstance(known[0], bool):
        return "yes" if all(known) else f"{sum(known)} of {len(known)}" if any(known) else "no"
    middle, least, highest = (f"{f(known):,.{decimals}f}" for f in (statistics.median, min, max))
    return middle if least == highest else f"{middle} ({least} to {highest})"


def _notes(found: Sequence[Figures]) -> str:
    notes = [figures["note"] for figures in found if figures.get("note")]
    return "; ".join(dict.fromkeys(note.replace("|", "/") for note in notes))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _listing(figures: Figures) -> str:
    return "\n".join(
        f"* {name.replace('_', ' ')}: {value}" for name, value in figures.items() if not isinstance(value, list | dict)
    )


if __name__ == "__main__":
    main()
