"""Write the tables of the documentation: medians over the repetitions for each engine."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.synthesis_speed.cases import DEFINITIONS, LATENCY, OWN, Figures
from benchmarks.synthesis_speed.engines import CONCURRENCY, ENGINES

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
    """Return all tables as Markdown: medians over the repetitions, with minimum and maximum where they differ."""
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
    """Add the throughput relative to the median of the same engine without faults."""
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
