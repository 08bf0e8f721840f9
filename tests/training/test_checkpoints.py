import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from multigrain.errors import RunError
from multigrain.training.checkpoints import last_checkpoint, newest_whole, remove_older

SINGLE, PAIR = ("rng_state.pth",), ("rng_state_0.pth", "rng_state_1.pth")


def checkpoint(folder: Path, step: int, each: int = 4, states: tuple[str, ...] = SINGLE) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}, "train_batch_size": {each}}}')
    for name in (*states, "optimizer.pt", "scheduler.pt"):
        torch.save({"step": step}, path / name)
    save_file({"weight": torch.zeros(4)}, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_broken_checkpoints_are_removed(tmp_path: Path) -> None:
    good = checkpoint(tmp_path, 2)
    torn = checkpoint(tmp_path, 10) / "trainer_state.json"
    torn.write_text(torn.read_text()[:9])
    (checkpoint(tmp_path, 12) / "trainer_state.json").unlink()
    checkpoint(tmp_path, 14, states=())
    assert newest_whole(tmp_path, 4) == good
    assert len(list(tmp_path.iterdir())) == 4  # only looked
    assert last_checkpoint(tmp_path, 4) == str(good)
    assert list(tmp_path.iterdir()) == [good]
    assert last_checkpoint(tmp_path / "absent", 4) is None


def test_room_is_made_of_what_is_older_than_the_newest_whole_one(tmp_path: Path) -> None:
    remove_older(tmp_path / "absent", 4)
    checkpoint(tmp_path, 4, states=())
    remove_older(tmp_path, 4)
    assert len(list(tmp_path.iterdir())) == 1  # nothing is whole
    for step in (2, 8, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 12, states=())  # another process is writing it
    remove_older(tmp_path, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-12"}


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "model.safetensors"])
@pytest.mark.parametrize("left", [0, 0.5, 0.99])
def test_what_a_power_cut_has_cut_is_not_gone_on_from(tmp_path: Path, name: str, left: float) -> None:
    good = checkpoint(tmp_path, 2)
    path = checkpoint(tmp_path, 4) / name
    assert newest_whole(tmp_path, 4) == path.parent
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    assert newest_whole(tmp_path, 4) == good


def test_each_process_must_have_written(tmp_path: Path) -> None:
    good = checkpoint(tmp_path, 2, 2, PAIR)
    checkpoint(tmp_path, 4, 2, PAIR[:1])
    checkpoint(tmp_path, 6, 2, PAIR[1:])
    assert last_checkpoint(tmp_path, 4, 2) == str(good)


def test_another_number_of_processes_is_told(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2, 2, PAIR)
    with pytest.raises(RunError, match="made by 2 processes, but now there are 1. Start as many as then"):
        last_checkpoint(tmp_path, 4)
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert last_checkpoint(tmp_path, 4) is None
