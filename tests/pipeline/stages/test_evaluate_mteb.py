"""A benchmark of mteb in a run: killed and resumed, and with instructions that change."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.pipeline import verbs
from multigrain.pipeline.run_dir import RunDir
from tests.conftest import write_run
from tests.evaluation.hub_of_mteb import jsonl, retrieval, write, write_hub
from tests.kept_folder import KeptFolder

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

from multigrain.evaluation.mteb_encoder import Encoder  # noqa: E402

NAMES = ["STSBenchmark", "SciFact", "Banking77Classification"]
BENCHMARK = "MTEB(eng, v1)"
KILLED = """
import json, os, signal, sys
import mteb
from multigrain.cli.main import main
from multigrain.evaluation.mteb_encoder import Encoder

path, settings, names = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
mteb.get_benchmark("MTEB(eng, v1)").tasks = [mteb.get_task(name) for name in names]
real, met = Encoder.encode, []
def encode(self, inputs, *, task_metadata, **options):
    met.append((task_metadata.name, "instruction" in self.model.prompts))
    if met.count(("SciFact", True)) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, inputs, task_metadata=task_metadata, **options)
Encoder.encode = encode
main(["evaluate", path, *(word for setting in settings for word in ("--set", setting))])
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(mteb.get_benchmark(BENCHMARK), "tasks", [mteb.get_task(name) for name in NAMES])
        yield datasets.config.HF_DATASETS_CACHE


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> KeptFolder:
    """A run of a model trained with an instruction, before its evaluation."""
    folder = tmp_path_factory.mktemp("instructed")
    path = write_run(folder, tiny_encoder)
    path.write_text(path.read_text().replace("[model]", '[model]\ninstruction = "find it"'))
    write_hub(folder / "hub")
    corpus, queries, relevant = retrieval()
    asked = [{**row, "text": f"old {row['text']}"} for row in queries]  # training has not seen them
    qrels = "query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in relevant)
    write(folder / "b", {"corpus.jsonl": jsonl(corpus), "queries.jsonl": jsonl(asked), "qrels/test.tsv": qrels})
    for verb in (verbs.synthesize, verbs.grade, verbs.train):
        verb(load_config(path, settings(folder)))
    return KeptFolder(folder)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The side and the task of all that mteb lets a model encode from now on."""
    found: list[tuple[str, str]] = []
    real = Encoder.encode

    def encode(self: Encoder, inputs: Any, *, task_metadata: Any, **options: Any) -> Any:
        found.append(("trained" if "instruction" in self.model.prompts else "base", task_metadata.name))
        return real(self, inputs, task_metadata=task_metadata, **options)

    monkeypatch.setattr(Encoder, "encode", encode)
    return found


def settings(folder: Path, **instructions: str) -> list[str]:
    table = ", ".join(f"{json.dumps(task)} = {json.dumps(own)}" for task, own in instructions.items())
    tasks = json.dumps(["held-out", f"beir:{folder}/b:test", f"mteb:{BENCHMARK}"])
    mteb_data = f"evaluation.mteb_data={json.dumps(str(folder / 'hub'))}"
    return [f"evaluation.tasks={tasks}", mteb_data, f"evaluation.instructions={{{table}}}"]


def measured(config: Config, force: bool = False) -> dict[str, Any]:
    verbs.evaluate(config, force=force)
    found: dict[str, Any] = json.loads(RunDir(config.folder).scores.read_text())
    return found


def test_a_benchmark_that_is_killed_goes_on(kept: KeptFolder, encoded: list[tuple[str, str]], cache: Path) -> None:
    folder = kept.put_back()
    config = load_config(folder / "run.toml", settings(folder))
    whole = measured(config)
    kept.put_back()
    encoded.clear()

    command = [sys.executable, "-c", KILLED, config_file := str(folder / "run.toml")]
    command += [json.dumps(settings(folder)), json.dumps(NAMES)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_DATASETS_CACHE": str(cache)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    results = RunDir(config.folder).folder / "evaluation" / "mteb"
    before = {path: path.read_bytes() for path in results.rglob("*.json") if path.stem in NAMES}
    assert sorted(path.stem for path in before) == sorted([*NAMES, "STSBenchmark"])  # of the base, and of the trained

    assert measured(load_config(config_file, settings(folder))) == whole
    assert set(encoded) == {("trained", "SciFact"), ("trained", "Banking77Classification")}
    assert all(path.read_bytes() == content for path, content in before.items())
    for side in ("base", "trained"):
        (meta,) = results.joinpath(side).rglob("model_meta.json")
        assert meta.parent.name == json.loads(meta.read_text())["revision"]
        assert sorted(path.stem for path in meta.parent.glob("*.json")) == sorted([*NAMES, "model_meta"])
        found = mteb.ResultCache(results / side).load_results(tasks=NAMES, only_main_score=True)
        (model,) = found.model_results
        scores = {result.task_name: result.get_score() for result in model.task_results}
        assert scores == {name: whole[side][f"mteb:{name}"]["main score"] for name in NAMES}


def test_only_instructions_of_mteb_make_its_results_outdated(kept: KeptFolder, encoded: list[tuple[str, str]]) -> None:
    folder = kept.put_back()
    path, beir = folder / "run.toml", f"beir:{folder}/b:test"
    first = measured(load_config(path, settings(folder)))
    assert {side for side, _ in encoded} == {"base", "trained"}
    encoded.clear()
    other = measured(load_config(path, settings(folder, **{beir: "where is the old cat"})), force=True)
    assert not encoded
    assert other["trained"].pop("beir:b:test") != first["trained"].pop("beir:b:test")
    assert other["trained"] == first["trained"]
    third = measured(load_config(path, settings(folder, **{"mteb:SciFact": "where is the old cat"})), force=True)
    assert {side for side, _ in encoded} == {"trained"}
    assert third["trained"]["mteb:SciFact"] != first["trained"]["mteb:SciFact"]
    assert third["trained"]["mteb:STSBenchmark"] == first["trained"]["mteb:STSBenchmark"]
