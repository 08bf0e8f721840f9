import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset
from transformers import TrainerCallback, TrainerControl, TrainerState

from multigrain.config import LoraSection, ModelSection, PhaseSection, TrainingSection
from multigrain.errors import ConfigError, RunError
from multigrain.model.build import build_model
from multigrain.model.precision import uses_bf16
from multigrain.records import GradedTuple, Negative
from multigrain.terminal import _Silent, set_mode
from multigrain.training import train
from multigrain.training.batches import RowsOfPhase, StepSampler, to_datasets
from multigrain.training.callbacks import TrainingLog
from multigrain.training.curriculum import Curriculum, hold_out, plan
from multigrain.training.grade_schedules import phases_of
from multigrain.training.interruption import Stopping
from multigrain.training.loss import GradedLoss
from multigrain.training.train import HeldOut, train_model, without_dropout
from multigrain.training.trainer import CurriculumTrainer
from tests.conftest import WORDS, small_pairs
from tests.model.decoder import tiny_decoder

SECTION = TrainingSection(
    batch_size=4,
    learning_rate=1e-3,
    checkpoint_every=2,
    phases=[PhaseSection(name="a", grades=[1], steps=3), PhaseSection(name="b", grades=[2, 4], steps=4)],
)
LORA = LoraSection(rank=2, top_layers=1)


def tuples() -> list[GradedTuple]:
    return [
        GradedTuple(
            pair["id"],
            pair["query"],
            pair["positive"],
            tuple(Negative(f"{WORDS[i]} {WORDS[g]} {WORDS[-i]}", g, g / 4, "llm") for g in (1, 2, 4)),
            score=1.0,
        )
        for i, pair in enumerate(small_pairs(20))
    ]


def curriculum(section: TrainingSection = SECTION) -> Curriculum:
    return plan(tuples(), phases_of(section, (1, 2, 4)), section.batch_size)


def model(encoder: Path) -> SentenceTransformer:
    return build_model(ModelSection(base=str(encoder), max_tokens=24))


def adapted() -> SentenceTransformer:
    base = str(tiny_decoder("eos"))
    torch.manual_seed(7)  # of what the adapter begins with
    return build_model(ModelSection(base=base, max_tokens=24, bidirectional=True, lora=LORA))


def weights(trained: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    """What is written of each step, but for how fast it was."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("tokens_per_second", "seconds")} for line in lines
    ]


def with_callback(monkeypatch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    evaluation_callback = train._evaluation_callback

    def added(trainer: CurriculumTrainer, *more: Any) -> TrainerCallback:
        trainer.add_callback(callback)
        return evaluation_callback(trainer, *more)

    monkeypatch.setattr(train, "_evaluation_callback", added)


def train_until_cut(
    given: SentenceTransformer,
    section: TrainingSection,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    planned: Curriculum | None = None,
    held: HeldOut = HeldOut(),  # noqa: B008
) -> None:
    """Train as Ctrl-C at the fifth step would leave it."""

    class Cut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            if state.global_step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        with_callback(patch, Cut())
        with pytest.raises(KeyboardInterrupt):
            train_model(given, planned or curriculum(section), section, folder, 7, held)


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        ({}, model),
        ({"activation_gb": 0.0, "micro_batch_tokens": 16}, model),
        ({"dropout": True, "activation_gb": 2e-4, "micro_batch_tokens": 30}, model),
        ({"loss": "listwise", "directions": ["query_to_doc", "doc_to_query"], "matryoshka": [16]}, model),
        ({"precision": "bf16", "loss": "distill"}, model),
        ({"frozen_cache_gb": 1.0}, adapted),
        ({"frozen_cache_gb": 0.0, "precision": "bf16"}, adapted),
    ],
)
def test_a_training_that_was_cut_ends_like_one_that_was_not(
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    make: Callable[..., Any],
) -> None:
    section = SECTION.model_copy(update=changes)
    new = (lambda: make(tiny_encoder)) if make is model else make
    whole = new()
    train_model(whole, curriculum(), section, tmp_path / "whole", seed=7)
    train_until_cut(new(), section, tmp_path / "cut", monkeypatch)
    resumed = new()
    train_model(resumed, curriculum(), section, tmp_path / "cut", seed=7)

    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")
    steps = log_of(tmp_path / "cut")
    assert [(s["step"], s["phase"]) for s in steps] == [(i, "a" if i <= 3 else "b") for i in range(1, 8)]
    assert [list(s["margins"]) for s in steps] == [["1"]] * 3 + [["2", "4"]] * 4
    assert whole.max_seq_length == 24


class Signalled(TrainerCallback):  # type: ignore[misc]
    """Sends signals to this process in the fifth step."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == 4:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint_of_the_step_under_way(
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """SIGTERM and SIGHUP, which the command line makes a Ctrl-C."""
    section = SECTION.model_copy(update={"checkpoint_every": 20})
    whole = model(tiny_encoder)
    train_model(whole, curriculum(), section, tmp_path / "whole", 7)
    before = signal.signal(number, signal.default_int_handler)  # as the command line has it
    try:
        with monkeypatch.context() as patch:
            with_callback(patch, Signalled(number))
            with pytest.raises(KeyboardInterrupt):
                train_model(model(tiny_encoder), curriculum(), section, tmp_path / "cut", 7)
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err.count("stopping after this step; again to stop at once") == 1
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["checkpoint-5"]
    assert [line["step"] for line in log_of(tmp_path / "cut")] == [1, 2, 3, 4, 5]
    resumed = model(tiny_encoder)
    set_mode("auto")  # else a meter is shown once in ten seconds
    train_model(resumed, curriculum(), section, tmp_path / "cut", 7)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")


def ended_in_a_child(number: signal.Signals, handler: Any) -> tuple[int, bytes]:
    """How a process ends that gets the signal while it trains, and what it still did in the block."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        signal.signal(number, handler)
        with contextlib.suppress(BaseException), Stopping(1).postponed():
            os.kill(os.getpid(), number)
            os.write(writing, b"step done")
        os._exit(signal.getsignal(number) is not handler)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        done = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_process_ends_it_after_the_step(number: signal.Signals) -> None:
    """From Python, where nobody has installed a handler; what is ignored, as under nohup, stays so."""
    assert ended_in_a_child(number, signal.SIG_DFL) == (-number, b"step done")
    assert ended_in_a_child(number, signal.SIG_IGN) == (0, b"step done")


def test_a_second_ctrl_c_stops_at_once(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, Signalled(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_model(model(tiny_encoder), curriculum(), SECTION, tmp_path, 7)
    assert len(log_of(tmp_path)) == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_are_written_by_time_too(tiny_encoder: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"checkpoint_every": 20, "checkpoint_minutes": 1e-9})
    train_model(model(tiny_encoder), curriculum(), section, tmp_path, 7)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-6", "checkpoint-7"}


def test_a_checkpoint_is_written_beside_one_other_at_most(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is three times the model. The fullest moment is that in which the last file of a new one is written."""
    seen: list[list[str]] = []
    save = TrainerState.save_to_json

    def watched(self: TrainerState, path: str) -> None:
        seen.append(sorted(folder.name for folder in Path(path).parent.parent.iterdir()))
        save(self, path)

    monkeypatch.setattr(TrainerState, "save_to_json", watched)
    train_model(model(tiny_encoder), curriculum(), SECTION, tmp_path, 7)
    names = [f"checkpoint-{step}" for step in (2, 4, 6, 7)]
    assert seen == [names[:1], names[:2], names[1:3], names[2:]]


def test_a_self_paced_training_that_was_cut_takes_the_same_decisions(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = TrainingSection(schedule="self-paced", pace_every=2, steps=14, batch_size=4, checkpoint_every=4)
    trained, held = hold_out(tuples(), 7)
    planned = plan(trained, phases_of(section, (1, 2, 4)), 4)
    looked = HeldOut(held, lambda given: {"norm": float(next(given.parameters()).norm())})
    whole = model(tiny_encoder)
    train_model(whole, planned, section, tmp_path / "whole", 7, looked)
    train_until_cut(model(tiny_encoder), section, tmp_path / "cut", monkeypatch, planned, looked)
    resumed = model(tiny_encoder)
    train_model(resumed, planned, section, tmp_path / "cut", 7, looked)
    for name in ("pace.json", "curriculum.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())

    steps = [line for line in log_of(tmp_path / "whole") if "loss" in line]
    written = json.loads((tmp_path / "whole" / "curriculum.json").read_text())
    phases, lengths = [phase["name"] for phase in written], [phase["steps"] for phase in written]
    assert [line["phase"] for line in steps] == [
        name for name, n in zip(phases, lengths, strict=True) for _ in range(n)
    ]
    assert all(lengths)
    looks = [(line["step"], line["phase"]) for line in log_of(tmp_path / "whole") if "held_out" in line]
    ends = [0, lengths[0], lengths[0] + lengths[1], 14]
    assert looks == list(zip(ends, [phases[0], *phases], strict=True))


@pytest.mark.parametrize("stop", ["_save_optimizer_and_scheduler", "_save_rng_state", "state"])
def test_a_kill_while_a_checkpoint_is_written_costs_that_checkpoint_alone(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """transformers writes the model, then the optimizer, how it draws, and its state; stop before the later ones."""
    expected = model(tiny_encoder)
    train_model(expected, curriculum(), SECTION, tmp_path / "whole", seed=7)
    if stop == "state":
        save = TrainerState.save_to_json

        def write(self: TrainerState, path: str) -> None:
            save(self, path)
            if self.global_step == 4:
                Path(path).write_text(Path(path).read_text()[:-40])
                raise KeyboardInterrupt

        patched: tuple[Any, str, Any] = (TrainerState, "save_to_json", write)
    else:
        original = getattr(CurriculumTrainer, stop)

        def refuse(self: CurriculumTrainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 4:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        patched = (CurriculumTrainer, stop, refuse)
    with monkeypatch.context() as patch:
        patch.setattr(*patched)
        with pytest.raises(KeyboardInterrupt):
            train_model(model(tiny_encoder), curriculum(), SECTION, tmp_path / "cut", seed=7)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-4").exists()
    resumed = model(tiny_encoder)
    train_model(resumed, curriculum(), SECTION, tmp_path / "cut", seed=7)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(expected).items())


def test_the_numbers_of_the_log_go_to_tensorboard_too(tiny_encoder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    section = SECTION.model_copy(update={"report_to": ["tensorboard"]})
    train_model(
        model(tiny_encoder), curriculum(), section, tmp_path, 7, HeldOut(evaluate=lambda given: {"nDCG@10": 0.5})
    )
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [line for line in log_of(tmp_path) if "loss" in line]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([step["loss"] for step in steps])
    assert [event.step for event in events.Scalars("train/margin_grade_4")] == [4, 5, 6, 7]
    assert {tag for tag in events.Tags()["scalars"] if "held_out" in tag}


def test_training_text_length_holds_for_training_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    trained = model(tiny_encoder)
    train_model(trained, curriculum(), SECTION.model_copy(update={"max_tokens": 8}), tmp_path, seed=7)
    assert trained.max_seq_length == 24


def test_a_broken_loss_stops_with_step_batch_and_checkpoint(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = model(tiny_encoder)

    class Breaks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            if state.global_step == 4:
                next(p for p in broken.parameters() if p.requires_grad).data.fill_(float("nan"))

    planned = curriculum()
    with_callback(monkeypatch, Breaks())
    with pytest.raises(RunError) as caught:
        train_model(broken, planned, SECTION, tmp_path, seed=7)
    message = str(caught.value)
    assert 'loss is nan, the gradient norm is nan at step 5, in phase "b"' in message
    assert f"The batch: {', '.join(planned.ids_at(4))}." in message
    assert f"The last good checkpoint is {tmp_path / 'checkpoints' / 'checkpoint-4'}." in message
    assert "training.learning_rate" in message
    assert not (tmp_path / "checkpoints" / "checkpoint-6").exists()


def test_an_exploded_loss_stops_too(tiny_encoder: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"phases": [SECTION.phases[0].model_copy(update={"temperature": 1e-6})]})
    with pytest.raises(
        RunError,
        match=r'training: loss \(guessing would cost 2.08\) is \d.* at step 1, in phase "a".* There is no checkpoint',
    ):
        train_model(model(tiny_encoder), curriculum(section), section, tmp_path, seed=7)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("[enforce fail] can't allocate memory: 9 bytes"),
    ],
)
def test_lack_of_memory_names_the_settings(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: GradedLoss, *args: Any) -> None:
        raise error

    monkeypatch.setattr(GradedLoss, "_encode", fail)
    with pytest.raises(RunError, match=r"out of memory .*training.activation_gb .*training.micro_batch_tokens"):
        train_model(model(tiny_encoder), curriculum(), SECTION, tmp_path, seed=7)
    monkeypatch.setattr(GradedLoss, "_encode", lambda self, *args: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        train_model(model(tiny_encoder), curriculum(), SECTION, tmp_path / "other", seed=7)


def test_vectors_cannot_be_cut_to_more_than_they_have(tiny_encoder: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"matryoshka": [8, 64]})
    with pytest.raises(ConfigError, match=r"training.matryoshka: found \[64\]; the vectors have 32 dimensions"):
        train_model(model(tiny_encoder), curriculum(), section, tmp_path, seed=7)


def test_the_base_draws_nothing_but_an_adapter_may() -> None:
    built = adapted()
    without_dropout(built.train())
    active = [name for name, module in built.named_modules() if isinstance(module, nn.Dropout) and module.p]
    assert active
    assert all("lora_dropout" in name for name in active)


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.02] * 20, "steps 1 to 5 is 0.020"),
        ([0.15, 0.1, 0.05, 0.008, 0.007, 0.006], "steps 2 to 6 is 0.008"),  # the mean of the first five is 0.063
        ([0.9] * 12 + [0.01] * 8, "steps 11 to 15 is 0.010"),
        ([0.9, 0.9, 0.01] * 7, None),  # now and then
        ([0.9] * 20 + [0.01] * 9, None),  # learned
    ],
)
def test_it_is_said_once_where_there_is_nothing_to_learn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], losses: list[float], told: str | None
) -> None:
    planned = plan(tuples(), [PhaseSection(name="in-batch", grades=[], steps=40)], 4)
    log = TrainingLog(planned, planned.phase_at, tmp_path / "log.jsonl", _Silent())
    state = TrainerState()
    for step, loss in enumerate(losses, 1):
        state.log_history.append({"step": step, "loss": loss})
        log.on_log(None, state, TrainerControl())
    said = [line for line in capsys.readouterr().err.splitlines() if "the model has nothing to learn" in line]
    assert [told in line for line in said if told] == ([True] if told else [])
    assert bool(said) is bool(told)


def test_a_training_of_two_steps_is_warned_too(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A query that is its own positive is found from the start, if small differences count."""
    given = [replace(graded, positive=graded.query) for graded in tuples()]
    phases = [PhaseSection(name="in-batch", grades=[], steps=2, temperature=0.001)]
    section = SECTION.model_copy(update={"phases": phases})
    train_model(model(tiny_encoder), plan(given, phases, 4), section, tmp_path, 7)
    assert "the loss of steps 1 to 2 is" in capsys.readouterr().err


def test_half_precision_where_the_hardware_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for can in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda can=can: can)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda can=can: can)
        assert uses_bf16("auto", cpu) is can
        assert uses_bf16("auto", gpu) is can
        assert uses_bf16("bf16", cpu) is True
        assert uses_bf16("fp32", gpu) is False
    assert "bf16 is slow on this CPU" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="training.precision: found bf16; this GPU does not support it"):
        uses_bf16("bf16", gpu)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_step_is_of_one_phase_on_all_ranks(world_size: int) -> None:
    planned = curriculum()
    datasets = to_datasets(planned, {})
    samplers: list[BatchSampler] = [RowsOfPhase(data, 4 // world_size, drop_last=True) for data in datasets.values()]
    sampler = StepSampler(
        ConcatDataset(datasets.values()),
        samplers,
        seed=0,
        batch_size=4,
        world_size=world_size,
        phase_at=planned.phase_at,
    )
    batches = list(sampler)
    assert len(batches) == len(sampler) == planned.steps * world_size
    for step in range(planned.steps):
        rows = [row for batch in batches[step * world_size : (step + 1) * world_size] for row in batch]
        start = planned.phase_at(step) * 28 + step * 4
        assert rows == list(range(start, start + 4))


def test_rows_are_looked_up_when_they_are_asked_for() -> None:
    data = to_datasets(curriculum(), {})["phase_1"]
    row = data[5]
    planned = curriculum().row(1, 1, 1)
    assert list(row) == ["query", "positive", "negative_1", "negative_2", "label"]
    assert [row["positive"], row["negative_1"], row["negative_2"]] == [d.text for d in planned.documents]
    assert row["label"] == [(5, 1.0, 1.0), (2, 0.5, 1.0), (4, 1.0, 1.0)]
