"""The outcome of a run: as `summary.json`, and as text for a terminal."""

import json
from typing import Any

from multigrain.config import Config
from multigrain.progress import interval, listed
from multigrain.rundir import RunDir

WIDTH = 110
FEW = 20
"""Items of which a resample says little about others."""


def summarize(config: Config, run_dir: RunDir, finished: list[str]) -> dict[str, Any]:
    """What `summary.json` holds: the figures, and the counts, seconds and tokens of the stages named."""
    stages = {name: stage for name, stage in run_dir.stages().items() if name in finished}
    scores: dict[str, Any] = {"base": {}, "trained": {}, "difference": {}, "items": {}}
    if "evaluate" in stages:
        known = json.loads(run_dir.scores.read_text(encoding="utf-8"))
        scores = {name: known.get(name, {}) for name in scores}
    return {
        "name": config.name,
        **scores,
        "counts": {name: count for stage in stages.values() for name, count in stage.counts.items()},
        "seconds": {name: stage.seconds for name, stage in stages.items()},
        "tokens": sum(stage.tokens for stage in stages.values()),
        "cost": sum(stage.cost for stage in stages.values()),
    }


def too_many_parked(config: Config, summary: dict[str, Any]) -> bool:
    """Whether more requests stayed without an answer than `synthesis.max_parked` allows."""
    counts, allowed = summary["counts"], config.synthesis.max_parked
    asked = (("parked", "requests"), ("pairs_parked", "pair_requests"))
    return any(counts.get(parked, 0) > allowed * counts.get(requests, 0) for parked, requests in asked)


def render(config: Config, summary: dict[str, Any]) -> str:
    """The counts, and, as far as the run has come, the figures and a few searches before and after."""
    run_dir = RunDir(config.folder)
    blocks = [_counts(summary)]
    if summary["difference"]:
        blocks += [_figures(summary), _examples(run_dir)]
    if "export" in summary["seconds"]:
        blocks.append(f'model    {run_dir.model}\nsearch   multigrain search {run_dir.folder} "your question"')
    return "\n\n".join(block for block in blocks if block)


def _counts(summary: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in summary["seconds"].items())
    return f"{summary['name']}: {listed(summary['counts'])}\nseconds: {seconds}"


def _figures(summary: dict[str, Any]) -> str:
    lines = [f"{'task':<24} {'metric':<11} {'base':>6} {'trained':>8} {'difference':>11}  95 % interval"]
    for task, difference in summary["difference"].items():
        for metric, (value, low, high) in difference.items():
            base, trained = summary["base"][task][metric], summary["trained"][task][metric]
            lines.append(
                f"{task:<24} {metric:<11} {base:>6.3f} {trained:>8.3f} {value:>+11.3f}  {interval(low, high)}".rstrip()
            )
    for task, count in summary["items"].items():
        if count < FEW:
            lines.append(f"{task}: {count} items are few; do not trust the interval")
    return "\n".join(lines)


def _examples(run_dir: RunDir) -> str:
    examples = json.loads(run_dir.examples.read_text(encoding="utf-8"))
    if not examples:
        return ""
    blocks = ["Searches whose first result changed, drawn at random (* = the right document):"]
    for example in examples:
        before, after = (example[key] or "> 100" for key in ("rank_before", "rank_after"))
        lines = [f"\n{example['query']}   (rank of the right document: {before} -> {after})"]
        for side in ("before", "after"):
            for document in example[side]:
                mark = "*" if document["id"] in example["relevant"] else " "
                lines.append(f"  {side:<6} {mark} {document['id']}: {document['text']}"[:WIDTH])
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
