"""The rows of the README's table: which negatives and which pooling help on the quickstart's data?

    python -m benchmarks.quickstart_rows [--seeds 7 8 9]

Every arm trains on the same pairs for the same steps at the same learning rate; only its negatives and its
pooling differ (a pair for which an arm has no negative at all is left out of that arm). All are measured on the
held-out packages and paired by query. Arms that are done are kept below runs/, so the command goes on after an
interruption. Writes benchmarks/results/quickstart_rows.json.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from multigrain import pipeline
from multigrain.config import QUICKSTART, Config, PhaseSection, load_config
from multigrain.encoders import judge_encoder
from multigrain.evaluation.compare import paired_bootstrap
from multigrain.evaluation.evaluate import evaluate, held_out_task
from multigrain.evaluation.metrics import METRICS, NDCG
from multigrain.grading.grade import Grader
from multigrain.jsonl import read_candidates, read_documents, read_pairs, write_json
from multigrain.model.build import build_model
from multigrain.model.encode import encode
from multigrain.progress import say
from multigrain.records import GradedTuple
from multigrain.rundir import RunDir
from multigrain.schedules import phases_of
from multigrain.stages.grade import judges
from multigrain.stages.proposals import by_pair
from multigrain.training.curriculum import plan
from multigrain.training.train import train_model

RESULTS = Path(__file__).parent / "results" / "quickstart_rows.json"
ARMS = ("none", "in-batch only", "mined", "mined + LLM")
POOLINGS = ("mean", "anchor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    seeds = parser.parse_args().seeds
    config = load_config(QUICKSTART)
    pipeline.synthesize(config)
    pipeline.grade(config)
    run_dir = RunDir(config.folder)
    tuples_digest = hashlib.sha256(run_dir.tuples.read_bytes()).hexdigest()
    folder = Path(config.output) / "quickstart_rows" / f"{config.fingerprint('model', 'training')}-{tuples_digest[:8]}"
    for seed in seeds:
        for negatives in ARMS:
            for pooling in POOLINGS:
                path = folder / f"{negatives.replace(' ', '_')}-{pooling}-{seed if negatives != 'none' else 0}.json"
                if not path.exists():
                    say(f"{negatives}, {pooling}, seed {seed}")
                    work = folder / "work" / path.stem
                    write_json(path, measure(config, run_dir, work, negatives, pooling, seed))
                write_json(RESULTS, summarize(folder, config))


def measure(
    config: Config, run_dir: RunDir, work: Path, negatives: str, pooling: str, seed: int
) -> dict[str, dict[str, float]]:
    """Train one arm, with its checkpoints in `work`, and score it: query -> metric -> value."""
    model = build_model(config.model.model_copy(update={"pooling": pooling}))
    if negatives != "none":
        phases = phases_of(config.training)
        if negatives == "in-batch only":
            phases = [PhaseSection(name="in-batch", grades=[], steps=config.training.steps)]
        curriculum = plan(tuples(config, run_dir, negatives), phases, config.training.batch_size, seed)
        train_model(model, curriculum, config.training, work, seed)
    pairs, documents = list(read_pairs(run_dir.held_out_pairs)), list(read_documents(run_dir.corpus))
    task = held_out_task(pairs, documents)
    return evaluate(task, lambda texts, role: encode(model, texts, role, "encoding")).scores


def tuples(config: Config, run_dir: RunDir, negatives: str) -> list[GradedTuple]:
    """The run's candidates graded anew, from the sources that the arm may use."""
    candidates = read_candidates(run_dir.candidates)
    if negatives == "mined":
        candidates = (candidate for candidate in candidates if candidate.source == "mined")
    proposals = list(by_pair(read_pairs(run_dir.train_pairs), candidates))
    measuring = judges(config, judge_encoder(config, run_dir))
    return Grader(measuring, config.grading, longest=config.model.max_tokens).grade(proposals).tuples


def summarize(folder: Path, config: Config) -> dict[str, Any]:
    """Means over seeds, with paired intervals of the difference from the base and from in-batch training."""
    arms: dict[tuple[str, str], list[dict[str, dict[str, float]]]] = {}
    for path in sorted(folder.glob("*.json")):
        negatives, pooling, _seed = path.stem.rsplit("-", 2)
        arms.setdefault((negatives.replace("_", " "), pooling), []).append(json.loads(path.read_text()))
    rows = [
        _row(negatives, pooling, arms[negatives, pooling], arms, config.seed)
        for negatives in ARMS
        for pooling in POOLINGS
        if (negatives, pooling) in arms
    ]
    return {
        "data": f"{config.data.pairs}, held out: {config.data.held_out}",
        "environment": environment("torch", "transformers", "sentence-transformers"),
        "rows": rows,
    }


def _row(
    negatives: str,
    pooling: str,
    runs: list[dict[str, dict[str, float]]],
    arms: dict[tuple[str, str], list[dict[str, dict[str, float]]]],
    seed: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {"negatives": negatives, "pooling": pooling, "seeds": len(runs)}
    for metric in METRICS:
        row[metric] = round(sum(_mean(run, metric) for run in runs) / len(runs), 4)
    row["each_seed"] = [round(_mean(run, NDCG), 4) for run in runs]
    for name, other in (("base", ("none", "mean")), ("in-batch only, mean", ("in-batch only", "mean"))):
        if other in arms:
            value, low, high = paired_bootstrap(_by_query(arms[other]), _by_query(runs), seed)
            row[f"difference from {name}"] = [round(value, 4), round(low, 4), round(high, 4)]
    return row


def _mean(run: dict[str, dict[str, float]], metric: str) -> float:
    return sum(scores[metric] for scores in run.values()) / len(run)


def _by_query(runs: list[dict[str, dict[str, float]]]) -> list[float]:
    """nDCG@10 of each query, averaged over the seeds."""
    return [sum(run[query][NDCG] for run in runs) / len(runs) for query in runs[0]]


if __name__ == "__main__":
    main()
