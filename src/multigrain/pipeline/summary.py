"""The outcome of a run: as `summary.json`, and as text for a terminal."""

import json
from typing import Any

from multigrain.config import Config
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import DIFFERENCE_HEAD, PLAIN, columns, difference_rows, listed, shortened

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


def render(config: Config, summary: dict[str, Any], width: int = PLAIN) -> str:
    """The counts, and, as far as the run has come, a few searches before and after; the figures come last."""
    run_dir = RunDir(config.folder)
    blocks = [_counts(summary)]
    if summary["difference"]:
        blocks.append(_examples(run_dir, width))
    if "export" in summary["seconds"]:
        blocks.append(f'model    {run_dir.model}\nsearch   multigrain search {run_dir.folder} "your question"')
    if summary["difference"]:
        blocks += [_figures(summary), _verdict(summary)]
    return "\n\n".join(block for block in blocks if block)


def _counts(summary: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in summary["seconds"].items())
    return f"{summary['name']}: {listed(summary['counts'])}\nseconds: {seconds}"


def _figures(summary: dict[str, Any]) -> str:
    rows = [DIFFERENCE_HEAD, *difference_rows(summary)]
    few = [
        f"{task}: {count} items are few; do not trust the interval"
        for task, count in summary["items"].items()
        if count < FEW
    ]
    return "\n".join([*columns(rows, texts=2), *few])


def _verdict(summary: dict[str, Any]) -> str:
    """What the first metric of each task says of the trained model, by its interval."""
    found: dict[str, list[str]] = {"better than its base": [], "no clear difference": [], "worse than its base": []}
    for task, difference in summary["difference"].items():
        metric, (_, low, high) = next(iter(difference.items()))
        if low is not None and high is not None:
            verdict = (
                "better than its base" if low > 0 else "worse than its base" if high < 0 else "no clear difference"
            )
            found[verdict].append(f"{task} ({metric})")
    said = [f"{verdict} on {', '.join(tasks)}" for verdict, tasks in found.items() if tasks]
    return f"verdict  {'; '.join(said)}" if said else ""


def _examples(run_dir: RunDir, width: int) -> str:
    examples = json.loads(run_dir.examples.read_text(encoding="utf-8"))
    if not examples:
        return ""
    blocks = ["Searches whose first result changed, drawn at random (* = the right document):"]
    for example in examples:
        before, after = (example[key] or "> 100" for key in ("rank_before", "rank_after"))
        lines = [f"\n{shortened(example['query'], width)}", f"  rank of the right document: {before} -> {after}"]
        for side in ("before", "after"):
            for document in example[side]:
                mark = "*" if document["id"] in example["relevant"] else " "
                head = f"  {side:<6} {mark} "
                lines.append(head + shortened(f"{document['id']}: {document['text']}", width - len(head)))
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
