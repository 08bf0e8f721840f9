"""Several processes train as one does at the same global batch. They are forked; `test_torchrun` has whole commands."""

import gc
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.multiprocessing import start_processes  # type: ignore[attr-defined]  # documented there
from torch.nn.parallel import DistributedDataParallel

from multigrain.cli.main import main
from multigrain.config import (
    ContrastSection,
    LoraSection,
    ModelSection,
    PhaseSection,
    TrainingSection,
)
from multigrain.errors import ConfigError, MultigrainError
from multigrain.model.build import build_model
from multigrain.records import GradedTuple
from multigrain.training import distributed
from multigrain.training.curriculum import hold_out, plan
from multigrain.training.grade_schedules import phases_of
from multigrain.training.loss import Encoding, GradedLoss
from multigrain.training.train import HeldOut, train_model, without_dropout
from tests import warm
from tests.conftest import WORDS
from tests.model.decoder import tiny_decoder
from tests.training.test_train import Signalled, tuples, with_callback

GROUPS = (2, 4)
STEPS = [("a", [1], 2), ("b", [2, 4], 3), ("c", [], 1)]
SECTION = TrainingSection(
    batch_size=8,
    learning_rate=1e-3,
    phases=[PhaseSection(name=name, grades=grades, steps=steps) for name, grades, steps in STEPS],
)
BOTH: dict[str, Any] = {"directions": ["query_to_doc", "doc_to_query"], "partition_mode": "per_direction"}
ALL: dict[str, Any] = {
    "directions": ["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"],
    "hardness_mode": "all_negatives",
    "hardness_strength": 2.0,
}
SOME_KEPT = {"activation_gb": 5e-4, "micro_batch_tokens": 30}
SINGLE: dict[str, dict[str, Any]] = {
    "single precision": {"micro_batch_tokens": 30, "checkpoint_every": 4},
    "lora": {"micro_batch_tokens": 60},
    "lora, frozen layers at each step": {"frozen_cache_gb": 0.0, "micro_batch_tokens": 60},
}
CASES = SINGLE | {
    "all kept": {},
    "none kept, all directions": {"activation_gb": 0.0, "micro_batch_tokens": 16, **ALL},
    "some kept, listwise": {"loss": "listwise", **SOME_KEPT},
    "distill": {"loss": "distill", "teacher": {"kind": "judge"}, "phases": SECTION.phases[:2], **BOTH, **SOME_KEPT},
    "matryoshka": {"matryoshka": [16, 8], **BOTH, **SOME_KEPT},
    "self-paced": {"phases": [], "schedule": "self-paced", "pace_every": 2, "steps": 9},
}
"""Those that are not `SINGLE` are in double precision, where a difference is no matter of rounding."""
TOLERANCE = {True: 2e-5, False: 1e-9}
"""Of losses, margins and weights, in single precision or not."""


def new_model(case: str, encoder: Path) -> SentenceTransformer:
    base = str(tiny_decoder("eos")) if "lora" in case else str(encoder)
    torch.manual_seed(7)  # of what an adapter begins with
    lora = LoraSection(rank=2, top_layers=1, dropout=0.0) if "lora" in case else None
    model = build_model(ModelSection(base=base, max_tokens=24, bidirectional="lora" in case, lora=lora))
    return model if case in SINGLE else model.double()


def uneven_tuples() -> list[GradedTuple]:
    """Texts of many lengths, so that the processes differ in their number of micro-batches."""

    def longer(text: str, words: int) -> str:
        return " ".join([text, *WORDS[:words]])

    return [
        replace(
            graded,
            positive=longer(graded.positive, i % 9),
            negatives=tuple(replace(n, text=longer(n.text, i * n.grade % 8)) for n in graded.negatives),
        )
        for i, graded in enumerate(tuples())
    ]


def train_case(case: str, encoder: Path, folder: Path) -> None:
    """Train, and keep the weights in the folder."""
    section = TrainingSection.model_validate(SECTION.model_dump() | CASES[case])
    trained, held = hold_out(uneven_tuples(), 7) if section.is_self_paced else (uneven_tuples(), [])
    planned = plan(trained, phases_of(section, (1, 2, 4)), section.batch_size)
    model = new_model(case, encoder)
    looked = HeldOut(held, lambda given: {"norm": float(next(given.parameters()).detach().norm())})
    train_model(model, planned, section, folder, 7, looked)
    if distributed.is_main():
        torch.save(model.state_dict(), folder / "weights.pt")


def columns(model: SentenceTransformer, rows: slice) -> list[dict[str, Any]]:
    """A batch that no plan would make, of which rows 0 and 1 are on another rank than 2 and 3.

    The negative of row 3 is the positive of row 0, that of row 1 the query of row 2; row 2 has the query of row 0, and
    row 3 the positive of row 1.
    """
    queries = ["a cat sat", "the dog runs", "a cat sat", "where is the bird"]
    positives = ["old house river", "green tree", "blue fish stone", "green tree"]
    negatives = [" ".join(WORDS[i : i + 3 + i]) for i in range(4)]
    negatives[3], negatives[1] = positives[0], queries[2]
    return [model.preprocess(column[rows]) for column in (queries, positives, negatives)]


def loss_and_gradient(
    encoder: Path, objective: str, contrast: dict[str, Any], encoding: Encoding
) -> tuple[float, torch.Tensor]:
    """Of that batch, over all processes."""
    model = new_model("", encoder).train()
    without_dropout(model)
    state = distributed.joined()
    share = 4 // state.num_processes
    rows = slice(state.process_index * share, (state.process_index + 1) * share)
    loss = GradedLoss(model, objective=objective, contrast=ContrastSection(**contrast), encoding=encoding)
    if distributed.count() > 1:
        loss.model = DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
    labels = torch.tensor([[[5, 1.0, 1.0, -1], [2, 0.5, 1.0, -1]]] * 4)
    labels[1, 0, 3], labels[2, 1, 3] = 2, -2 - 0  # for query 1 the positive of row 2; negative 0 answers query 2
    labels = labels[rows]
    value = loss(columns(model, rows), labels)
    value.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    total = value.detach().clone()
    if distributed.count() > 1:
        torch.distributed.all_reduce(total)
    return float(total) / state.num_processes, gradient


LOSSES = [
    (name, contrast, encoding)
    for name, contrast in (("infonce", BOTH), ("listwise", {}), ("infonce", {**ALL, "positives": "all"}))
    for encoding in (Encoding(), Encoding(12, 40_000))
]
WAYS = [f"{name}{parts}" for name in ("both directions", "listwise", "all directions") for parts in ("", " in parts")]


def go_through_all(rank: int, encoder: Path, folder: Path) -> None:
    """What each process of a group does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for case in CASES:
        train_case(case, encoder, folder / case)
    with pytest.MonkeyPatch.context() as patch:
        if rank:  # whoever is told to stop, all do, and leave a checkpoint of the step under way
            with_callback(patch, Signalled(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            train_case("single precision", encoder, folder / "cut")
    assert (folder / "cut" / "checkpoints" / "checkpoint-5").is_dir()
    train_case("single precision", encoder, folder / "cut")
    found = [loss_and_gradient(encoder, *way) for way in LOSSES]
    messages = [
        _failure(lambda: train_case("single precision", encoder, folder.parent / str(GROUPS[0]) / "single precision")),
        _failure(lambda: distributed.share_of(9)),
        _failure(lambda: distributed.from_main(lambda: SINGLE["not there"])),
    ]
    (folder / f"messages{rank}.json").write_text(json.dumps(messages))
    if distributed.is_main():
        torch.save(found, folder / "losses.pt")
    distributed.leave()


def _failure(work: Callable[[], Any]) -> str:
    try:
        work()
    except (MultigrainError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def fork_groups(encoder: Path, folder: Path) -> None:
    """One group after the other."""
    tiny_decoder("eos")  # where there are several processes, transformers lets the main one alone save a model
    gc.freeze()  # transformers collects after each training
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    for count in GROUPS:
        (folder / str(count)).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
        os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        start_processes(go_through_all, (encoder, folder / str(count)), count, start_method="fork")


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the folders of all cases, below the number of processes."""
    root = tmp_path_factory.mktemp("trained")
    groups = warm.call(fork_groups, tiny_encoder, root, printing=tmp_path_factory.mktemp("printed"))
    for case in CASES:
        train_case(case, tiny_encoder, root / "alone" / case)
    groups.ended(0)
    return root


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("tokens_per_second", "seconds")} for line in lines
    ]


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [number for key in value for number in (key, *flat(value[key]))]
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


def assert_equal_numbers(one: Any, other: Any, tolerance: float) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        assert a == (pytest.approx(b, rel=tolerance, abs=tolerance) if isinstance(b, float) else b)


@pytest.mark.parametrize("count", GROUPS)
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one(trained: Path, case: str, count: int) -> None:
    one, several = trained / "alone" / case, trained / str(count) / case
    tolerance = TOLERANCE[case in SINGLE]
    assert_equal_numbers(log_of(several), log_of(one), max(tolerance, 2e-6))  # losses are added up in single precision
    for name in ("curriculum.json", *(["pace.json"] if case == "self-paced" else [])):
        assert_equal_numbers(json.loads((several / name).read_text()), json.loads((one / name).read_text()), tolerance)
    expected = torch.load(one / "weights.pt")
    for name, value in torch.load(several / "weights.pt").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("count", GROUPS)
def test_a_training_of_several_that_was_cut_ends_like_one_that_was_not(trained: Path, count: int) -> None:
    whole, cut = trained / str(count) / "single precision", trained / str(count) / "cut"
    assert log_of(whole) == log_of(cut)
    expected = torch.load(whole / "weights.pt")
    assert all(torch.equal(value, expected[name]) for name, value in torch.load(cut / "weights.pt").items())


@pytest.mark.parametrize("count", GROUPS)
@pytest.mark.parametrize("way", range(len(LOSSES)), ids=WAYS)
def test_what_is_false_beside_a_row_of_another_rank_does_not_count(
    trained: Path, tiny_encoder: Path, way: int, count: int
) -> None:
    value, gradient = torch.load(trained / str(count) / "losses.pt")[way]
    expected = loss_and_gradient(tiny_encoder, *LOSSES[way])
    assert value == pytest.approx(expected[0], abs=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", GROUPS)
def test_every_process_learns_what_the_main_one_finds_wrong(trained: Path, count: int) -> None:
    for rank in range(count):
        resumed, share, bug = json.loads((trained / str(count) / f"messages{rank}.json").read_text())
        assert re.match("none" if count == 2 else "RunError: .*: made by 2 processes, but now there are 4", resumed)
        assert share == f"ConfigError: training.batch_size: found 9; wanted a multiple of the {count} processes"
        assert bug == f"{'RunError' if rank else 'KeyError'}: 'not there'"


def test_all_but_training_is_for_one_process(
    run_toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(["grade", str(run_toml)]) == 2
    assert (
        capsys.readouterr().err
        == "multigrain: torchrun: is only for multigrain train; run multigrain grade without it\n"
    )


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "accelerate: found FSDP; here every process holds the whole model"),
        ({"LOCAL_WORLD_SIZE": "4"}, "torchrun: found 4 processes; there are 2 GPUs here, and each process needs one"),
        (
            {"WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            "torchrun: found 2 processes; they cannot form a group on this hardware",
        ),
    ],
)
def test_what_cannot_be_joined_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], fault: str
) -> None:
    distributed.joined()  # this one, which stays alone
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=fault):
        distributed.joined()


def test_a_process_alone_uses_one_of_two_gpus(
    trained: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    train_case("single precision", tiny_encoder, tmp_path)
    assert "using one of 2 GPUs; to use all of them: torchrun --nproc-per-node 2 -m" in capsys.readouterr().err
    expected = torch.load(trained / "alone" / "single precision" / "weights.pt")
    assert all(torch.equal(value, expected[name]) for name, value in torch.load(tmp_path / "weights.pt").items())


def test_whoever_fails_alone_tells_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Even if there is no store any more in which to look whether somebody has."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["train"])  # what the main process says too
    assert capsys.readouterr().err == ""
    assert main(["train", "no.toml"]) == 2
    assert "multigrain: no.toml: cannot be read" in capsys.readouterr().err
