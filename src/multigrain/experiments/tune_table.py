"""The table of `tune`: the recipes tried, their results, and the settings chosen, as JSON and as text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multigrain.config import Config
from multigrain.evaluation.metrics import NDCG
from multigrain.evaluation.significance import Difference
from multigrain.experiments.halving import Scores, Standing, challenge, standings
from multigrain.experiments.recipes import Settings
from multigrain.files import write_json
from multigrain.pipeline.recipe import training_inputs
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import columns, interval

AS_THEY_ARE = "the current settings"


@dataclass
class Rung:
    """One rung: all remaining recipes train for the same share of their steps.

    Attributes:
        share: share of the steps.
        steps: steps of each trained recipe.
        queries: number of dev queries that each recipe was measured on.
        standings: standing of each recipe, best first.
        failed: why a training failed, by recipe.
        scores: the scores by which the rung was decided.
        is_whole: whether there was time for all recipes.
    """

    share: float
    steps: dict[int, int] = field(default_factory=dict)
    queries: dict[int, int] = field(default_factory=dict)
    standings: dict[int, Standing] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    is_whole: bool = True

    def rank(self, scores: Scores, places: int, queries: int) -> None:
        """Set the standings of the recipes with these scores; other recipes keep theirs."""
        self.scores = scores
        now = standings(scores, places)
        self.standings = now | {number: known for number, known in self.standings.items() if number not in now}
        self.queries |= dict.fromkeys(scores, queries)

    @property
    def alive(self) -> list[int]:
        """The recipes that go on: the current settings, then the others, best first."""
        return [0, *(number for number, standing in self.standings.items() if number and standing.fate == "goes on")]


@dataclass(frozen=True)
class Outcome:
    """All rungs of a choice, and the basis of the choice.

    Attributes:
        rungs: the rungs in order.
        confirmed: difference of the best recipe from the current settings, over two trainings of each, if measured.
        is_out_of_time: whether `tune.minutes` ended the choice.
        all_queries: number of dev queries.
    """

    rungs: list[Rung]
    confirmed: Difference | None
    is_out_of_time: bool
    all_queries: int

    @property
    def best(self) -> tuple[int, Difference] | None:
        """The best recipe other than the current settings, and its difference from them; None if there is none."""
        found = challenge(self.rungs[-1].scores)
        return found if found is None or self.confirmed is None else (found[0], self.confirmed)

    @property
    def chosen(self) -> int:
        """The chosen recipe: the best one if it is clearly better, else 0."""
        return self.best[0] if self.best is not None and self.best[1].low > 0 else 0

    @property
    def reason(self) -> str:
        """Why that recipe is chosen, in words."""
        last, best = self.rungs[-1], self.best
        if best is None:
            why = "tune.minutes ran out" if self.is_out_of_time else "their trainings failed"
            return f"no other recipe could be measured ({why})"
        number, difference = best
        found = f"{NDCG} {difference.value:+.4f} {interval(difference.low, difference.high)} on {last.queries[0]} of "
        found += f"{self.all_queries} dev queries, after {last.steps[number]} steps"
        found += f" ({last.share:.0%} of the training)" if last.share < 1 else ""
        if self.chosen:
            trained = "two trainings" if self.confirmed else "one training"
            return f"clearly better than {AS_THEY_ARE}: {found}, by {trained} of each"
        if difference.value <= 0:
            return f"no other recipe is better; the best of them: {found}"
        why = "tune.minutes ran out" if self.is_out_of_time else "the dev set is too small to decide"
        return f"{why}; the best of the other recipes: {found}"


def write_tuning(config: Config, run_dir: RunDir, recipes: Sequence[Settings], outcome: Outcome, seconds: float) -> str:
    """Write `tune/table.json`, from which training reads its settings; return the table as text."""
    chosen = recipes[outcome.chosen]
    table = {
        "chosen": chosen,
        "reason": outcome.reason,
        "inputs": training_inputs(config, run_dir),
        "minutes": round(seconds / 60, 2),
        "dev_queries": outcome.all_queries,
        "confirmed": outcome.confirmed,
        "recipes": list(recipes),
        "rungs": [_to_json(rung) for rung in outcome.rungs],
    }
    write_json(run_dir.tuning, table)
    settings = told_settings(chosen)
    return "\n".join([*_lines(recipes, outcome), "", f"training uses {settings}: {outcome.reason}"])


def told_settings(settings: Settings) -> str:
    """Return the settings as text for people to read.

    >>> told_settings({"learning_rate": 0.0002, "schedule": "only-4"}), told_settings({})
    ('learning_rate = 0.0002, schedule = "only-4"', 'the current settings')
    """
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items()) or AS_THEY_ARE


def _to_json(rung: Rung) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, standing in rung.standings.items():
        place = {"recipe": number, "steps": rung.steps[number], "dev_queries": rung.queries[number]}
        rows.append({**place, **standing._asdict()})
    return {"share": rung.share, "is_whole": rung.is_whole, "rows": rows, "failed": rung.failed}


def _lines(recipes: Sequence[Settings], outcome: Outcome) -> list[str]:
    """Return a row for each recipe with the results of its last rung, recipes of the final rung first."""
    rows: dict[int, list[str]] = {}
    for rung in reversed(outcome.rungs):
        for number, standing in rung.standings.items():
            figures = [str(rung.steps[number]), str(rung.queries[number]), f"{standing.mean:.4f}", _to_best(standing)]
            rows.setdefault(number, [_fate(number, standing, outcome), *figures])
        for number, fault in rung.failed.items():
            rows.setdefault(number, [f"failed: {fault}", "", "", "", ""])
    for number in range(len(recipes)):
        rows.setdefault(number, ["not tried: tune.minutes ran out", "", "", "", ""])
    head = ["recipe", "outcome", "steps", "queries", NDCG, "to the best"]
    return columns([head, *([told_settings(recipes[number]), *row] for number, row in rows.items())], texts=2)


def _to_best(standing: Standing) -> str:
    found = standing.to_best
    return "" if found is None else f"{found.value:+.4f} {interval(found.low, found.high)}"


def _fate(number: int, standing: Standing, outcome: Outcome) -> str:
    if number == outcome.chosen:
        return "taken"
    is_last = number in outcome.rungs[-1].standings
    return "not taken" if standing.fate == "goes on" and is_last else standing.fate
