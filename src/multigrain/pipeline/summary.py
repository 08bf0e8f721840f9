"""The results of a run, as `summary.json` and as text for a terminal."""

import json
from dataclasses import asdict
from typing import Any

from multigrain.config import Config
from multigrain.export.retriever_table import RETRIEVER_HEAD, answering, retriever_rows
from multigrain.pipeline.choice import FEW, read_choice
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.verdict import verdicts
from multigrain.terminal import (
    DIFFERENCE_HEAD,
    PLAIN,
    VERDICT_HEAD,
    columns,
    difference_rows,
    listed,
    rows_of_sources,
    shortened,
    verdict_rows,
)

OF_SCORES = ("base", "trained", "difference", "items", "others", "retrieval")
"""Keys that the summary copies from `scores.json`."""


def summarize(config: Config, run_dir: RunDir, finished: list[str]) -> dict[str, Any]:
    """Return the content of `summary.json`: the scores, and the counts, seconds and tokens of the stages.

    Args:
        config: the run.
        run_dir: its folder.
        finished: names of the stages that are done.
    """
    stages = {name: stage for name, stage in run_dir.stages().items() if name in finished}
    scores: dict[str, Any] = {name: {} for name in OF_SCORES}
    if "evaluate" in stages:
        known = json.loads(run_dir.scores.read_text(encoding="utf-8"))
        scores = {name: known.get(name, {}) for name in scores} | _present(known, "by_source")
    return {
        "name": config.name,
        **scores,
        "verdict": [verdict._asdict() for verdict in verdicts(config, scores)],
        "exported": asdict(read_choice(run_dir)) if "export" in stages else None,
        "counts": {name: count for stage in stages.values() for name, count in stage.counts.items()},
        "seconds": {name: stage.seconds for name, stage in stages.items()},
        "tokens": sum(stage.tokens for stage in stages.values()),
        "cost": sum(stage.cost for stage in stages.values()),
    }


def _present(known: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: known[key]} if key in known else {}


def too_many_parked(config: Config, summary: dict[str, Any]) -> bool:
    """Return whether more requests stayed without an answer than `synthesis.max_parked` allows."""
    counts, allowed = summary["counts"], config.synthesis.max_parked
    asked = (("parked", "requests"), ("pairs_parked", "pair_requests"))
    return any(counts.get(parked, 0) > allowed * counts.get(requests, 0) for parked, requests in asked)


def render(config: Config, summary: dict[str, Any], width: int = PLAIN) -> str:
    """Return the results as text: stages, some searches before and after training, scores, verdicts, next commands."""
    run_dir = RunDir(config.folder)
    blocks = [_stages(run_dir, summary)]
    if summary["difference"]:
        blocks += [_examples(run_dir, width), _figures(summary), _verdict(summary)]
    if "export" in summary["seconds"]:
        blocks.append(_next(run_dir, summary["exported"]))
    return "\n\n".join(block for block in blocks if block)


def _stages(run_dir: RunDir, summary: dict[str, Any]) -> str:
    stages = run_dir.stages()
    rows = [(name, f"{seconds:.0f} s") for name, seconds in summary["seconds"].items()]
    lines = [f"{line}  {listed(stages[name].counts)}" for line, (name, _) in zip(columns(rows), rows, strict=True)]
    return "\n".join([f"{summary['name']}:", *lines])


def _next(run_dir: RunDir, exported: dict[str, Any]) -> str:
    lines = [
        f"model    {run_dir.model}",
        f"which    {exported['model']}: {exported['reason']}",
        f'search   multigrain search {run_dir.folder} "your question"',
        f'explain  multigrain explain {run_dir.model} "your question"',
        f"dropped  multigrain dropped {run_dir.folder}",
    ]
    return "\n".join(lines)


def _figures(summary: dict[str, Any]) -> str:
    rows = [DIFFERENCE_HEAD, *difference_rows(summary), *rows_of_sources(summary)]
    few = [
        f"{task}: {count} items are too few to trust the interval"
        for task, count in summary["items"].items()
        if count < FEW
    ]
    return "\n".join([*columns(rows, texts=2), *few, *_by_retriever(summary)])


def _by_retriever(summary: dict[str, Any]) -> list[str]:
    """Return a table of the scores of each retriever, and the retriever that `search` uses."""
    rows = list(retriever_rows(summary))
    choice = summary.get("retrieval", {}).get("trained")
    answer = [f"answers  {answering(choice)}"] if choice else []
    return ["", *columns([RETRIEVER_HEAD, *rows], texts=2), *answer] if rows else []


def _verdict(summary: dict[str, Any]) -> str:
    """Return the verdicts on the trained model, by the interval of the first metric of each task."""
    if not summary["verdict"]:
        return ""
    return "\n".join(columns([VERDICT_HEAD, *verdict_rows(summary)], texts=4))


def _examples(run_dir: RunDir, width: int) -> str:
    examples = json.loads(run_dir.examples.read_text(encoding="utf-8"))
    if not examples:
        return ""
    blocks = ["Searches whose first result changed, drawn at random (* = the right document):"]
    for example in examples:
        before, after = example["rank_before"] or "> 100", example["rank_after"] or "> 100"
        lines = [f"\n{shortened(example['query'], width)}", f"  rank of the right document: {before} -> {after}"]
        for side in ("before", "after"):
            for document in example[side]:
                mark = "*" if document["id"] in example["relevant"] else " "
                head = f"  {side:<6} {mark} "
                lines.append(head + shortened(f"{document['id']}: {document['text']}", width - len(head)))
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
