"""Train the baseline with the stock sentence-transformers trainer, for as long as the run's own training took."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigrain.config import Config
from multigrain.data.jsonl import read_documents, read_objects, read_pairs
from multigrain.errors import DataError, RunError
from multigrain.files import atomic_folder, count_lines, digest_of, write_json
from multigrain.model.files import model_digest
from multigrain.pipeline.arms import ARMS, MINED
from multigrain.pipeline.encoders import base_encoder, load_measured_base
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.terminal import counted, say

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from multigrain.training.stock import StockTraining

MOST_SECONDS = 1800
"""Maximum time of the run's own training (see `seconds_used`) for which `auto` trains a baseline, in seconds."""
MOST_DOCUMENTS = MOST_PAIRS = 100_000
"""Maximum number of documents and of pairs for which `auto` mines: computing all their cosines takes minutes."""

ADVICE = "sentence-transformers holds a whole batch in memory. Lower training.batch_size, or use --against none"


def baseline(config: Config, run_dir: RunDir) -> Result:
    """Train each arm of the baseline that is not trained yet.

    Raises:
        RunError: the time of the run's own training is unknown, or memory did not suffice. With `auto`, the baseline is
            left out instead.
    """
    seconds, is_wanted = _seconds_of_training(run_dir), config.baseline.against == "stock"
    if not is_wanted and (reason := _reason_to_leave_out(run_dir, seconds)):
        return _left_out(reason, run_dir)
    if seconds is None:
        raise RunError(f"{run_dir.training_log}: the time of the steps is missing. Run: multigrain train --force")
    try:
        arms = {arm: plan for arm in ARMS if (plan := _trained(arm, seconds, config, run_dir))}
    except RunError as error:
        if is_wanted:
            raise
        return _left_out(str(error), run_dir)
    write_json(run_dir.arms, {"arms": arms, "seconds": seconds})
    shutil.rmtree(_checkpoints(run_dir), ignore_errors=True)
    return Result({"arms": len(arms), **{f"{arm}_steps": plan["steps"] for arm, plan in arms.items()}})


def _left_out(reason: str, run_dir: RunDir) -> Result:
    say(f"  no baseline: {reason}. To train it anyway: --against stock")
    write_json(run_dir.arms, {"arms": {}, "left_out": reason})
    return Result({"arms": 0})


def _seconds_of_training(run_dir: RunDir) -> float | None:
    """Return the seconds of all steps of the run's own training; None if its log does not have them."""
    with suppress(DataError, KeyError, TypeError):
        steps = (line for _, line in read_objects(run_dir.training_log) if "held_out" not in line)
        return round(sum(line["seconds"] for line in steps), 3) or None
    return None


def _reason_to_leave_out(run_dir: RunDir, seconds: float | None) -> str | None:
    """Return the reason why `auto` trains no baseline, or None."""
    if seconds is None:
        return "the log does not have the time of the training"
    if seconds > MOST_SECONDS:
        return f"it would take twice the {seconds / 60:.0f} minutes of the training"
    for path, most, what in (
        (run_dir.corpus, MOST_DOCUMENTS, "documents"),
        (run_dir.train_pairs, MOST_PAIRS, "training pairs"),
    ):
        if (count := count_lines(path)) > most:
            return f"there are {count:,} {what} to mine with (at most {most:,})"
    return None


def _checkpoints(run_dir: RunDir) -> Path:
    return run_dir.baseline / "checkpoints"


def _trained(arm: str, seconds: float, config: Config, run_dir: RunDir) -> dict[str, Any] | None:
    """Train an arm if it is not trained yet, and return its plan; return None if it cannot be trained."""
    folder, note = run_dir.baseline / arm, run_dir.arm_plan(arm)
    fingerprint = _fingerprint(arm, seconds, config, run_dir)
    plan = _plan(note)
    if plan.get("fingerprint") != fingerprint:
        for stale in (folder, _checkpoints(run_dir) / arm):
            shutil.rmtree(stale, ignore_errors=True)
        plan = {"fingerprint": fingerprint}
    elif folder.is_dir():
        say(f"  {arm}: already trained ({counted(plan['steps'], 'steps')})")
        return plan
    from multigrain.training.train import memory_explained

    training = _training(arm, config, run_dir)
    if len(training.rows) < 2:
        say(f"  no arm {arm}: too few pairs have enough negatives that certainly do not answer them")
        return None
    with memory_explained(ADVICE):
        if "steps" not in plan:
            steps = training.steps_within(seconds, _base(config)[0])
            plan |= {"steps": steps, "batch_size": training.batch_size, "pairs": len(training.rows)}
            plan["negatives"] = training.negatives
            write_json(note, plan)
        is_sound = _train(arm, training, plan["steps"], config, run_dir)
    return plan if is_sound else None


def _plan(note: Path) -> dict[str, Any]:
    """Return the plan of an arm; empty if there is none, or the file is damaged."""
    with suppress(OSError, ValueError):
        return dict(json.loads(note.read_text(encoding="utf-8")))
    return {}


def _fingerprint(arm: str, seconds: float, config: Config, run_dir: RunDir) -> str:
    """Return a digest of everything that determines the model of an arm."""
    files = [digest_of(run_dir.train_pairs)] + ([digest_of(run_dir.corpus)] if arm == MINED else [])
    settings = config.fingerprint("seed", "model", "training")
    return config.digest([arm, seconds, settings, *files, model_digest(config.model.base)])


def _training(arm: str, config: Config, run_dir: RunDir) -> "StockTraining":
    """Return the training of the arm: the run's training pairs, with negatives if the arm uses mined ones.

    As in the run's own mining, held-out documents are not negatives.
    """
    from multigrain.training.stock import StockTraining, mined_rows, pair_rows

    rows: Dataset = pair_rows(list(read_pairs(run_dir.train_pairs)))
    if arm == MINED:
        texts = [document.text for document in read_documents(run_dir.corpus) if document.split != "held_out"]
        rows = mined_rows(rows, texts, base_encoder(config, run_dir))
    return StockTraining(rows, config.training, config.training_seed)


def _base(config: Config) -> tuple["SentenceTransformer", int | None]:
    """Load the base as it is measured, but with the text length of training; also return its own text length."""
    model = load_measured_base(config)
    full_length = model.max_seq_length
    if config.training.max_tokens and full_length:
        model.max_seq_length = min(config.training.max_tokens, full_length)
    return model, full_length


def _train(arm: str, training: "StockTraining", steps: int, config: Config, run_dir: RunDir) -> bool:
    """Train and save the model; return whether its weights are finite, which is required to save it."""
    model, full_length = _base(config)
    seconds = training.train(model, _checkpoints(run_dir) / arm, steps, f"training ({arm})")
    say(f"  {arm}: {counted(steps, 'steps')}, {seconds:.0f} s of computing")
    model.max_seq_length = full_length
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        say(f"  no arm {arm}: its weights are not finite; training.learning_rate is too high for it")
        return False
    with atomic_folder(run_dir.baseline / arm) as part:
        model.save_pretrained(str(part), create_model_card=False)
    return True
