import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.data import BatchSampler, ConcatDataset
from transformers import TrainerCallback

from multigrain.config import ModelSection, PhaseSection, TrainingSection
from multigrain.model.build import build_model
from multigrain.records import GradedTuple, Negative
from multigrain.training import train
from multigrain.training.batches import PhaseSampler, PlannedBatchSampler, to_datasets, to_losses
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.train import last_checkpoint, train_model
from tests.conftest import WORDS, small_pairs

SECTION = TrainingSection(
    batch_size=4,
    learning_rate=1e-3,
    checkpoint_every=2,
    phases=[PhaseSection(name="a", grades=[1], steps=3), PhaseSection(name="b", grades=[2, 4], steps=4)],
)


def curriculum() -> Curriculum:
    tuples = [
        GradedTuple(
            pair["id"],
            pair["query"],
            pair["positive"],
            tuple(Negative(f"{WORDS[i]} {WORDS[g]} {WORDS[-i]}", g, g / 4, "llm") for g in (1, 2, 4)),
        )
        for i, pair in enumerate(small_pairs(20))
    ]
    return plan(tuples, SECTION.phases, SECTION.batch_size)


def model(encoder: Path) -> SentenceTransformer:
    return build_model(ModelSection(base=str(encoder), max_tokens=24))


def weights(trained: SentenceTransformer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def train_until_cut(
    given: SentenceTransformer, section: TrainingSection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train as Ctrl-C at the fifth step would leave it."""

    class Cut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            if state.global_step == 5:
                raise KeyboardInterrupt

    make = train._trainer
    with monkeypatch.context() as patch:
        patch.setattr(train, "_trainer", lambda *a: _with(make(*a), Cut()))
        with pytest.raises(KeyboardInterrupt):
            train_model(given, curriculum(), section, folder, seed=7)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_a_training_that_was_cut_ends_like_one_that_was_not(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini_batch_size: int | None
) -> None:
    section = SECTION.model_copy(update={"mini_batch_size": mini_batch_size})
    whole = model(tiny_encoder)
    train_model(whole, curriculum(), section, tmp_path / "whole", seed=7)

    train_until_cut(model(tiny_encoder), section, tmp_path / "cut", monkeypatch)
    resumed = model(tiny_encoder)
    train_model(resumed, curriculum(), section, tmp_path / "cut", seed=7)

    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    logs = [(tmp_path / folder / "log.jsonl").read_text() for folder in ("whole", "cut")]
    assert logs[0] == logs[1]
    steps = [json.loads(line) for line in logs[0].splitlines()]
    assert [(s["step"], s["phase"]) for s in steps] == [(i, "a" if i <= 3 else "b") for i in range(1, 8)]
    assert whole.max_seq_length == 24


def _with(trainer, callback):  # type: ignore[no-untyped-def]
    trainer.add_callback(callback)
    return trainer


def test_training_text_length_holds_for_training_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    trained = model(tiny_encoder)
    train_model(trained, curriculum(), SECTION.model_copy(update={"max_tokens": 8}), tmp_path, seed=7)
    assert trained.max_seq_length == 24


def test_broken_checkpoints_are_removed(tmp_path: Path) -> None:
    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_st'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert last_checkpoint(tmp_path / "absent") is None


def test_gradcache_and_plain_loss_are_the_hosts(tiny_encoder: Path) -> None:
    encoder = model(tiny_encoder).eval()
    data = to_datasets(curriculum())["b"][:4]
    columns = [data[name] for name in ("query", "positive", "negative_1", "negative_2")]
    plain = to_losses(curriculum(), encoder, None)["b"]
    cached = to_losses(curriculum(), encoder, 2)["b"]
    stock = MultipleNegativesRankingLoss(encoder, scale=20.0)
    values = [loss([encoder.preprocess(column) for column in columns], None) for loss in (plain, cached, stock)]
    torch.testing.assert_close(values[0], values[2])
    torch.testing.assert_close(values[1], values[2])
    # By hand: cross entropy of the cosines over all positives and negatives, divided by the temperature.
    queries, *documents = (torch.tensor(encoder.encode(column)) for column in columns)
    logits = queries @ torch.cat(documents).T / 0.05
    torch.testing.assert_close(values[0].detach(), torch.nn.functional.cross_entropy(logits, torch.arange(4)))


@pytest.mark.parametrize(("world_size", "rounds"), [(1, [3, 5]), (2, [2, 4]), (3, [3, 3])])
def test_ranks_never_meet_different_phases(world_size: int, rounds: list[int]) -> None:
    datasets = [Dataset.from_dict({"query": list(range(n))}) for n in (6, 10)]
    samplers: list[BatchSampler] = [PlannedBatchSampler(dataset, batch_size=2, drop_last=True) for dataset in datasets]
    sampler = PhaseSampler(ConcatDataset(datasets), samplers, seed=0, world_size=world_size)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sum(rounds)
    phases = [0 if batch[0] < 6 else 1 for batch in batches]
    assert phases == [0] * rounds[0] + [1] * rounds[1]
    for start in range(0, len(batches), world_size):
        assert len(set(phases[start : start + world_size])) == 1
