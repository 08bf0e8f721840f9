import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.files import atomic_folder

WRITER = """
import os, signal, sys
from pathlib import Path
from multigrain.files import atomic_folder

out, keep_others, killed_before = Path(sys.argv[1]), sys.argv[2] == "keep", int(sys.argv[3])
moves = 0

def deadly(move):
    def moved(path, target):
        global moves
        moves += 1
        if moves == killed_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(path, target)
    return moved

Path.rename, Path.replace = deadly(Path.rename), deadly(Path.replace)
with atomic_folder(out, keep_others=keep_others) as folder:
    for name in ("one", "two"):
        (folder / name).write_text("new")
"""
"""Fills a folder with `one` and `two`, and is killed before a given move."""


def fill(folder: Path, content: str, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def killed(out: Path, mode: str, before: int) -> None:
    command = [sys.executable, "-c", WRITER, str(out), mode, str(before)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("keep_others", [False, True])
def test_a_folder_appears_when_all_of_it_is_written(tmp_path: Path, keep_others: bool) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_folder(out, keep_others=keep_others) as folder:
        assert not list(folder.iterdir())
        fill(folder, "new", "one", "a/b/two")
        assert not out.exists()
    assert content_of(tmp_path) == {"deep/out/one": "new", "deep/out/a/b/two": "new"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("keep_others", [False, True])
def test_what_is_there_stays_if_the_block_fails(tmp_path: Path, keep_others: bool) -> None:
    fill(tmp_path / "out", "old", "one", "other")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "out", keep_others=keep_others) as folder:  # noqa: PT012
        fill(folder, "new", "one")
        folder.mkdir()
    assert content_of(tmp_path) == {"out/one": "old", "out/other": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_stay_only_if_they_are_to_be_kept(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old", "one", "a/one", "a/other")
    with atomic_folder(tmp_path / "out", keep_others=True) as folder:
        fill(folder, "new", "one", "a/one", "b/c/two")
    assert content_of(tmp_path / "out") == {"one": "new", "a/one": "new", "a/other": "old", "b/c/two": "new"}
    with atomic_folder(tmp_path / "out") as folder:
        fill(folder, "newer", "one")
    assert content_of(tmp_path) == {"out/one": "newer"}


def test_a_link_is_replaced_or_followed(tmp_path: Path) -> None:
    fill(tmp_path / "far", "old", "one")
    (tmp_path / "out").symlink_to(tmp_path / "far")
    with atomic_folder(tmp_path / "out", keep_others=True) as folder:
        fill(folder, "new", "two")
    assert (tmp_path / "out").is_symlink() and content_of(tmp_path / "far") == {"one": "old", "two": "new"}
    with atomic_folder(tmp_path / "out") as folder:
        fill(folder, "newer", "one")
    assert not (tmp_path / "out").is_symlink() and content_of(tmp_path / "out") == {"one": "newer"}
    assert content_of(tmp_path / "far") == {"one": "old", "two": "new"}


@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_folder_comes_back_if_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    fill(tmp_path / "out", "old", "one")
    rename, renames = Path.rename, []

    def faulty(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) == failing:
            raise PermissionError("not now")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", faulty)
    with pytest.raises(PermissionError, match="not now"), atomic_folder(tmp_path / "out") as folder:
        fill(folder, "new", "two")
    assert content_of(tmp_path) == {"out/one": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [1, 2])
def test_a_killed_replacement_loses_nothing(tmp_path: Path, before: int) -> None:
    out = tmp_path / "out"
    fill(out, "old", "one", "other")
    killed(out, "replace", before)
    assert not out.exists() or content_of(out) == {"one": "old", "other": "old"}
    with pytest.raises(ValueError, match="again"), atomic_folder(out):
        raise ValueError("again")
    assert content_of(tmp_path) == {"out/one": "old", "out/other": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [1, 2])
def test_a_killed_merge_leaves_whole_files(tmp_path: Path, before: int) -> None:
    out = tmp_path / "out"
    fill(out, "old", "one", "two", "other")
    killed(out, "keep", before)
    found = content_of(out)
    assert found.keys() == {"one", "two", "other"} and found["other"] == "old"
    assert sorted(found.values()) == ["new"] * (before - 1) + ["old"] * (4 - before)
    with atomic_folder(out, keep_others=True) as folder:
        fill(folder, "newer", "one", "two")
    assert content_of(tmp_path) == {"out/one": "newer", "out/two": "newer", "out/other": "old"}


def test_folders_beside_are_left_alone(tmp_path: Path) -> None:
    for name in ("model.part", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    (tmp_path / ".model.multigrain" / "new").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "model").write_text("not a folder")
    with atomic_folder(tmp_path / "model"):
        pass
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "deep" / "other") as part:
        part.mkdir()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "deep", "model", "model.old", "model.old/mine", "model.part", "model.part/mine",
    ]  # fmt: skip
