"""Train the model."""

import hashlib
import shutil

from multigrain.config import Config
from multigrain.encoders import weights_digest
from multigrain.jsonl import read_tuples, write_atomic
from multigrain.model.locate import prompts_of
from multigrain.progress import say
from multigrain.rundir import RunDir
from multigrain.stages import Result


def train(config: Config, run_dir: RunDir) -> Result:
    """Train along the curriculum; an interrupted training goes on from its last checkpoint."""
    import torch

    from multigrain.model.build import build_model, sees_ahead
    from multigrain.training.curriculum import plan
    from multigrain.training.train import train_model

    tuples = list(read_tuples(run_dir.tuples))
    curriculum = plan(tuples, config.training.phases, config.training.batch_size, config.seed)
    _start_anew_if_changed(config, run_dir)
    torch.manual_seed(config.seed)  # of what an adapter begins with
    model = build_model(config.model)
    favours_first = config.model.pooling == "anchor" and not config.model.anchor.visibility_correction
    if favours_first and not sees_ahead(model[0].model):
        say("  anchor pooling favours the first tokens of a base that looks back only: see model.bidirectional")
    if others := sum(graded.instruction not in (None, config.model.instruction) for graded in tuples):
        say(f"  {others} of {len(tuples)} tuples bring an instruction of their own, which training does not use")
    train_model(model, curriculum, config.training, run_dir.training, config.seed)
    model.save_pretrained(str(run_dir.trained), create_model_card=False)
    return Result({"steps": curriculum.steps, "phases": len(curriculum.phases)})


def _start_anew_if_changed(config: Config, run_dir: RunDir) -> None:
    """Remove the checkpoints of a training with other settings, tuples or base."""
    base = f"{weights_digest(config.model.base)} {config.digest(prompts_of(config.model.base))}"
    tuples = hashlib.sha256(run_dir.tuples.read_bytes()).hexdigest()
    fingerprint = f"{config.fingerprint('seed', 'model', 'training')} {tuples} {base}\n"
    note = run_dir.training_fingerprint
    if not note.is_file() or note.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(run_dir.training, ignore_errors=True)
        write_atomic(note, fingerprint.encode())
