"""Check that mining and grading end with the same bytes after a kill at any moment.

    python -m benchmarks.data_path.kill9 --folder FOLDER [--kills 20] [--passages 3000] [--pairs 600]

Runs the stages `data`, `synthesize` and `grade` on pseudo-words, with encoding, once undisturbed. Then, each time from
an empty run folder, kills the process by SIGKILL at evenly spaced moments and runs it again without a kill. The files
of data/, synthesis/ and grading/ must equal those of the undisturbed run byte for byte. A file of vectors must contain
the same vectors for all texts, and no others. Otherwise ends with exit code 1 and names the files that differ.
"""

import argparse
import filecmp
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.data_path.stages import MINING_AND_GRADING, run, started
from benchmarks.data_path.words import write_run
from multigrain.config import Config, config_of
from multigrain.data.jsonl import read_documents, read_pairs
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.run_dir import RunDir

STAGES = ("data", *MINING_AND_GRADING)
FOLDERS = ("data", "synthesis", "grading")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--passages", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=600)
    options = parser.parse_args()
    settings = write_run(options.folder.absolute(), options.passages, options.pairs, dimension=64)
    config = config_of(settings)
    undisturbed = config.folder.with_name("undisturbed")
    for folder in (config.folder, undisturbed):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = run(settings, STAGES).wall_seconds
    config.folder.rename(undisturbed)
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    moments = [seconds * (number + 1) / (options.kills + 1) for number in range(options.kills)]
    faults = [fault for moment in moments for fault in killed(settings, config, undisturbed, moment)]
    sys.exit("\n".join(faults) or None)


def killed(settings: Path, config: Config, undisturbed: Path, moment: float) -> list[str]:
    """Kill a run after so many seconds and run it again; return the differences from the undisturbed run."""
    process = started(settings, STAGES)
    was_at_work = not process.wait(moment)
    process.kill()
    done = list(RunDir(config.folder).stages())
    run(settings, STAGES)
    found = list(differences(config, undisturbed))
    told = f"killed after {moment:.1f} s" if was_at_work else f"not killed: over before {moment:.1f} s"
    print(f"{told}, done: {', '.join(done) or 'nothing'}; differs: {', '.join(found) or 'nothing'}", flush=True)
    shutil.rmtree(config.folder)
    return [f"after a kill at {moment:.1f} s: {name}" for name in found]


def differences(config: Config, undisturbed: Path) -> Iterator[str]:
    """Yield the paths of files that differ between the folders or exist in only one."""
    paths = {path.relative_to(root) for root in (config.folder, undisturbed) for path in _files(root)}
    for path in sorted(paths):
        here, there = config.folder / path, undisturbed / path
        if not (here.is_file() and there.is_file()):
            yield f"{path} (in one alone)"
        elif path.name == "vectors.bin":
            if here.stat().st_size != there.stat().st_size or not _same_vectors(config, undisturbed):
                yield str(path)
        elif not filecmp.cmp(here, there, shallow=False):
            yield str(path)


def _files(root: Path) -> Iterator[Path]:
    for name in FOLDERS:
        yield from (path for path in (root / name).rglob("*") if path.is_file())


def _same_vectors(config: Config, undisturbed: Path) -> bool:
    one, other = RunDir(config.folder), RunDir(undisturbed)
    pairs, documents = list(read_pairs(one.train_pairs)), read_documents(one.corpus)
    texts: tuple[tuple[Role, list[str]], ...] = (
        ("query", [pair.query for pair in pairs]),
        ("document", [document.text for document in documents if document.split != "held_out"]),
    )
    return all(np.array_equal(_kept(config, one, *each), _kept(config, other, *each)) for each in texts)


def _kept(config: Config, run_dir: RunDir, role: Role, texts: list[str]) -> Vectors:
    """Return vectors of a run's file; missing texts are encoded, which makes the file longer.

    Raises:
        AssertionError: the file has grown.
    """
    before = run_dir.judge_vectors.stat().st_size
    vectors = judge_encoder(config, run_dir)(texts, role)
    assert run_dir.judge_vectors.stat().st_size == before, f"{run_dir.judge_vectors}: not all texts were encoded"
    return vectors


if __name__ == "__main__":
    main()
