"""Figures with three decimals in the prose of README.md and docs/*.md, against the tables and files they quote.

A figure has a source if it is in a table or printed output of its own section, or of a section, page or results file
that its paragraph links to. A results file also gives the differences between its arms. `docs/results.md` must name its
sources so. Other pages may quote any table of the pages in `SOURCES` without a link. `docs/log.md` is a source itself:
it publishes what no file holds.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOG = ROOT / "docs" / "log.md"
STRICT = ROOT / "docs" / "results.md"
SOURCES = [STRICT, ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "graded-negatives.md", LOG]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path != LOG]

NUMBER = r"(?<![\d.,\w])[+-]?\d\.\d{3}(?![\d\w]|[.,]\d)"
FIGURE = re.compile(rf"\[{NUMBER}, {NUMBER}\]|{NUMBER}")
"""An interval is one figure."""
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- [^>]*: begin -->.*?<!-- end -->", re.DOTALL)
PAIR = re.compile(r"(\d\.\d{3}) (?:against|instead of|to|and) (\d\.\d{3})(?:; ours|;)? \(?([+-]\d\.\d{3})")
ROUNDING = 0.0011

UNSOURCED = {
    "results.md": {
        # Intervals of two arms of which neither is the table's reference: the items they are from are not in the files.
        "[-0.036, -0.002]": "MedQuAD: all grades, less batches x 3",
        "[-0.005, +0.020]": "SciFact: all grades, less batches x 3",
        "[-0.003, +0.007]": "Python documentation: all grades, less batches x 3",
        "[-0.021, +0.007]": "SciFact: all grades, less mined negatives",
        "[-0.010, +0.001]": "Python documentation: all grades, less mined negatives",
        "[+0.014, +0.051]": "SciFact after MedQuAD: all grades, mixed with the base or not",
        "[-0.001, +0.008]": "STS-B after MedQuAD: the same",
        "[-0.011, +0.026]": "MedQuAD: the same",
        "[-0.008, +0.050]": "MedQuAD's dev set: only-4, less only-1",
        "[-0.016, +0.011]": "MedQuAD's dev set: only-4 with batch x 2, less in-batch with batch x 3",
        "[-0.035, +0.011]": "MedQuAD's dev set: written, less mined",
        "-0.001, [-0.010, +0.008]": "SmolLM2, bidirectional: ATA-log, less mean",
        "[-0.008, +0.011]": "SmolLM2, bidirectional: ATA-linear, less mean",
        "[-0.219, -0.124]": "SmolLM2, all layers: weighted, bidirectional less causal",
        "[-0.244, -0.073]": "SmolLM2, all layers: ATA-log, bidirectional less causal",
        # Trainings that the dev set chose among, which the grids do not keep.
        "0.001 and 0.006 apart": "stock's two learning rates on MedQuAD's dev set",
    },
    "decisions.md": {
        "+0.008 (se 0.002)": "a linear proxy",
        "0.002 at the start": "the softmax of a first step",
        "0.048": "the same",
        "+0.006 on MedQuAD, +0.010 on SciFact": "a linear proxy",
        "+0.013, +0.011, +0.003": "the same",
        "above 0.997": "the bound that a test of the export holds",
    },
}
"""Quotations without a source, by page, and what they are. Each must still be on its page."""


def slug(heading: str) -> str:
    """Return the anchor of a heading, as Python-Markdown makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield level, anchor and text of each section: up to the next heading, and the part before the first."""
    marks = text
    for inside in (CODE, GENERATED):  # what looks like a heading there begins no section
        marks = inside.sub(lambda found: re.sub(r"^#", " ", found[0], flags=re.MULTILINE), marks)
    begins = [0, *(found.start() for found in re.finditer(r"^#+ ", marks, re.MULTILINE)), len(marks)]
    for begin, end in pairwise(begins):
        first = marks[begin:end].partition("\n")[0]
        level = len(first) - len(first.lstrip("#"))
        yield level, slug(first[level:]), marks[begin:end]


def section(page: Path, anchor: str) -> str:
    """Return a section with the sections below it; the whole page where there is no anchor."""
    text = page.read_text(encoding="utf-8")
    if not anchor:
        return text
    found: list[str] = []
    depth = 0
    for level, name, block in blocks(text):
        if found and level <= depth:
            break
        if found or name == anchor:
            depth = depth or level
            found.append(block)
    assert found, f"{page.name}#{anchor}: there is no such section"
    return "".join(found)


def tables(text: str) -> str:
    """Return the tables, the printed output and what a benchmark wrote into a text, without its prose."""
    rows = [line for line in CODE.sub("", text).splitlines() if line.startswith("|")]
    return "\n".join([*rows, *CODE.findall(text), *GENERATED.findall(text)])


def prose(text: str) -> str:
    """Return a text without what `tables` returns of it."""
    return re.sub(r"^\|.*", "", GENERATED.sub("", CODE.sub("", text)), flags=re.MULTILINE)


@cache
def figures_in_results(path: Path) -> frozenset[str]:
    """Return the figures of a results file, or of all in a folder.

    Those of a grid are, by its tasks' first metrics, the values of the arms, their differences and intervals.
    """
    if path.is_dir():
        return frozenset[str]().union(*(figures_in_results(file) for file in path.glob("*.json")))
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = set(figures_in(held, without=("tasks",)))
    for metrics in held.get("tasks", {}).values():
        arms = next(iter(metrics.values())).values()
        found |= {f"{arm['value']:.3f}" for arm in arms}
        found |= {f"{one['value'] - other['value']:+.3f}" for one, other in permutations(arms, 2)}
        found |= {interval(arm["difference"]) for arm in arms if arm["difference"]}
    return frozenset(found)


def figures_in(held: Any, without: Collection[str] = ()) -> Iterator[str]:
    """Yield the fractions in a JSON value, and the intervals: lists of a difference and the two ends."""
    if isinstance(held, dict):
        held = [value for key, value in held.items() if key not in without]
    if isinstance(held, float):
        yield from (f"{held:.3f}", f"{held:+.3f}")
    elif isinstance(held, list):
        if len(held) == 3 and all(isinstance(value, float) for value in held):
            yield interval(held)
        for value in held:
            yield from figures_in(value)


def interval(difference: Sequence[float]) -> str:
    """Write the ends of the interval of a difference as prose does."""
    return f"[{difference[1]:+.3f}, {difference[2]:+.3f}]"


def sources(page: Path, own: str, paragraph: str) -> Iterator[str]:
    """Yield the figures that a paragraph of a section may quote."""
    read = [(page, own)]
    for path, anchor in links(page, paragraph):
        if path.suffix == ".md":
            read.append((path, section(path, anchor)))
    for source, text in read:
        yield from FIGURE.findall(text if source == LOG or source == STRICT != page else tables(text))
        for path, _ in links(source, text):
            if path.suffix == ".json" or path.name == "results":
                yield from figures_in_results(path)
    if page != STRICT:
        for source in (page, *SOURCES):
            text = source.read_text(encoding="utf-8")
            yield from FIGURE.findall(text if source in (LOG, STRICT) else tables(text))


def links(page: Path, text: str) -> Iterator[tuple[Path, str]]:
    """Yield file and anchor of each link that stays in the repository."""
    for target, anchor in LINK.findall(text):
        if "://" not in target:
            yield (page.parent / target).resolve() if target else page, anchor


def paragraphs(block: str) -> list[str]:
    """Return the paragraphs of a section, each point of a list for itself, without tables and code."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[*-] )", prose(block))]


def is_among(figure: str, known: set[str]) -> bool:
    """Tell whether a figure is known; prose may leave the sign to its words ("loses 0.069")."""
    return figure in known or (figure[0] not in "+-" and not known.isdisjoint({f"+{figure}", f"-{figure}"}))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_figures_in_prose_have_a_source(page: Path) -> None:
    unsourced = dict.fromkeys(UNSOURCED.get(page.name, ()), False)
    missing = []
    for _, anchor, block in blocks(page.read_text(encoding="utf-8")):
        for paragraph in paragraphs(block):
            rest = paragraph
            for quotation in unsourced:
                unsourced[quotation] |= quotation in rest
                rest = rest.replace(quotation, "")
            if figures := FIGURE.findall(rest):
                known = set(sources(page, block, paragraph))
                missing += [f"#{anchor}: {figure}" for figure in figures if not is_among(figure, known)]
    assert not missing, f"no source (correct it, link its table, or add it to UNSOURCED): {', '.join(missing)}"
    gone = [quotation for quotation, is_there in unsourced.items() if not is_there]
    assert not gone, f"take these out of UNSOURCED, they are no longer on the page: {gone}"


@pytest.mark.parametrize("page", [*PAGES, LOG], ids=lambda path: path.name)
def test_a_difference_fits_the_two_figures_before_it(page: Path) -> None:
    """The difference is of numbers that are not rounded, so the last digit may be off by one."""
    for one, other, difference in PAIR.findall(" ".join(page.read_text(encoding="utf-8").split())):
        apart = abs(abs(float(one) - float(other)) - abs(float(difference)))
        assert apart < ROUNDING, f"{one}, {other}: {difference}"


def test_a_wrong_figure_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\nHere 0.533, see [b](#b).\n\n| x |\n| 0.534 |\n\n# B\n\n| 0.533 |\n")
    (_, _, block), *_ = list(blocks(page.read_text()))[1:]
    assert set(sources(page, block, "no link")) >= {"0.534"}
    assert section(page, "b").strip().endswith("| 0.533 |")
    assert not is_among("0.532", {"0.533", "+0.534"})
    assert is_among("0.534", {"+0.534"})
    assert not is_among("-0.534", {"+0.534"})
