"""Real tasks of mteb on small data, written as the hub lays them out."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from multigrain.config import ModelSection
from multigrain.data.beir import read_beir_task
from multigrain.errors import ConfigError, DataError, RunError
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.metrics import overall
from multigrain.evaluation.tasks import with_instruction
from multigrain.extras import EXTRAS
from multigrain.model.build import build_model
from multigrain.model.encode import ModelEncoder, encode
from multigrain.model.load import load_model
from multigrain.terminal import set_mode
from tests.conftest import WORDS
from tests.evaluation.hub_of_mteb import Rows, jsonl, retrieval, write, write_hub

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

from multigrain.evaluation.mteb_encoder import Encoder  # noqa: E402
from multigrain.evaluation.mteb_tasks import check_names, measure, model_meta  # noqa: E402

INSTRUCTION = "find the animal in the garden"


@pytest.fixture(scope="module", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests keeps the data sets that they have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours as a run leaves it: anchor pooling, a prompt before queries, and one before others."""
    section = ModelSection(base=str(tiny_encoder), pooling="anchor", query_prompt=INSTRUCTION + " ", max_tokens=24)
    model = build_model(section)
    model.prompts |= {"document": "small ", "STS": "big "}
    folder = tmp_path_factory.mktemp("run") / "tiny" / "model"
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> SentenceTransformer:
    return load_model(folder)


def counted(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What the model is asked to encode from now on."""
    calls: Rows = []
    real = model.encode

    def encode_(texts: list[str], **options: Any) -> Any:
        calls.append({"texts": texts, **options})
        return real(texts, **options)

    monkeypatch.setattr(model, "encode", encode_)
    return calls


def test_a_search_scores_as_ours_does(model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    # A prompt, title or length that mteb's path treats otherwise, or a similarity that is no cosine, shows here.
    corpus, queries, relevant = retrieval()
    qrels = "query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in relevant)
    files = {"corpus.jsonl": jsonl(corpus), "queries.jsonl": jsonl(queries), "qrels/test.tsv": qrels}
    write(tmp_path / "beir", files)
    task = read_beir_task(tmp_path / "beir", "test")
    ours = overall(evaluate(task, lambda texts, role: encode(model, texts, role, "x")).scores.values())

    scores = measure("SciFact", model, tmp_path / "results", data)
    assert scores == {"SciFact": pytest.approx(ours["nDCG@10"], abs=5.1e-6)}  # mteb rounds to five digits
    assert 0.05 < scores["SciFact"] < 0.95
    kept = json.loads(next((tmp_path / "results").rglob("SciFact.json")).read_text())["scores"]["test"][0]
    assert kept["recall_at_100"] == 1


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_inside_mteb_are_ours(model: SentenceTransformer, role: Any) -> None:
    from mteb.types import PromptType

    texts = [f"{' '.join(WORDS[: n % 40 + 1])} fish" for n in range(70)]  # some are cut, several batches
    inputs = [{"text": texts[:50]}, {"text": texts[50:]}]
    encoder, task = Encoder(model, "x"), mteb.get_task("SciFact").metadata
    found = encoder.encode(
        inputs, task_metadata=task, hf_split="test", hf_subset="default", prompt_type=PromptType(role), batch_size=3
    )
    np.testing.assert_allclose(found, encode(model, texts, role, "x"), atol=1e-6)
    assert np.abs(found - model.encode(texts, prompt="", normalize_embeddings=True)).max() > 1e-3


def test_other_texts_have_the_prompt_that_mteb_gives_them(
    model: SentenceTransformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = {
        task: mteb.evaluate(
            mteb.SentenceTransformerEncoderWrapper(model), redirected(task, data), cache=None, co2_tracker=False
        )
        for task in ("STSBenchmark", "Banking77Classification")
    }
    calls = counted(model, monkeypatch)
    for task, result in reference.items():
        score = measure(task, model, tmp_path, data)[task]
        assert score == pytest.approx(result.task_results[0].get_score(), abs=1e-6), task
    prompts = {call["texts"][0].split()[-1]: call["prompt"] for call in calls}
    assert {call["prompt"] for call in calls} == {"big ", ""}, prompts
    assert not any(call["normalize_embeddings"] for call in calls)  # a classifier sees the lengths


def redirected(name: str, data: Path) -> Any:
    task = mteb.get_task(name)
    place = {**task.metadata.dataset, "path": str(data / task.metadata.dataset["path"])}
    task.metadata = task.metadata.model_copy(update={"dataset": place})
    return task


def test_a_default_prompt_is_put_before_other_texts(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "default_prompt_name", "document")
    calls = counted(model, monkeypatch)
    options: Any = {"hf_split": "test", "hf_subset": "default"}
    for task in ("STSBenchmark", "Banking77Classification"):
        Encoder(model, "x").encode([{"text": ["cat"]}], task_metadata=mteb.get_task(task).metadata, **options)
    assert [call["prompt"] for call in calls] == ["big ", "small "]


def test_a_task_that_is_measured_is_not_measured_again(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(folder)
    first = measure("STSBenchmark", model, tmp_path, data)
    calls = counted(model, monkeypatch)
    capsys.readouterr()
    assert measure("STSBenchmark", model, tmp_path, data) == first
    assert not calls
    assert f"  1/1 STSBenchmark: cosine_spearman {first['STSBenchmark']:.4f}" in capsys.readouterr().err
    model.max_seq_length = 4  # another model
    assert measure("STSBenchmark", model, tmp_path, data) != first
    assert calls


def test_other_data_are_measured_anew(folder: Path, data: Path, tmp_path: Path) -> None:
    # mteb itself would give the score of the old data.
    model, own = load_model(folder), tmp_path / "hub"
    first = measure("STSBenchmark", model, tmp_path / "results", data)
    lines = (data / "mteb/stsbenchmark-sts/test.jsonl").read_text().splitlines(keepends=True)
    write(own / "mteb/stsbenchmark-sts", {"test.jsonl": "".join(lines[:9])})
    assert measure("STSBenchmark", model, tmp_path / "results", own) != first
    with pytest.raises(DataError):
        measure("STSBenchmark", model, tmp_path / "results")
    assert list((tmp_path / "results").rglob("STSBenchmark.json"))  # not lost for data that cannot be had
    pinned = mteb.get_task("STSBenchmark").metadata.revision
    note = f"{pinned}\netag\n1.0\n"
    write(own / "mteb/stsbenchmark-sts/.cache/huggingface/download", {"test.jsonl.metadata": note})
    same = measure("STSBenchmark", model, tmp_path / "results", own)
    assert measure("STSBenchmark", model, tmp_path / "results") == same  # the hub has no other data


def test_another_folder_is_other_data(folder: Path, data: Path, tmp_path: Path) -> None:
    # The library that loads them keeps folders with files of the same names as one.
    model, own = load_model(folder), tmp_path / "hub"
    first = measure("SciFact", model, tmp_path / "results", data)
    copytree(data / "mteb/scifact", own / "mteb/scifact")
    corpus, _, relevant = retrieval()
    others = [row | {"corpus-id": corpus[-1 - int(row["corpus-id"][1:])]["_id"]} for row in relevant]
    (own / "mteb/scifact/qrels/test.jsonl").write_text(jsonl(others))
    assert measure("SciFact", model, tmp_path / "others", own) != first
    assert measure("SciFact", model, tmp_path / "again", data) == first


def test_data_of_the_hub_stay_where_they_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def load_data(*_: Any, **__: Any) -> None:
        places.append(datasets.config.HF_DATASETS_CACHE)
        raise OSError("no hub here")

    monkeypatch.setattr(type(mteb.get_task("STSBenchmark")), "load_data", load_data)
    with pytest.raises(DataError, match="no hub here"):
        measure("STSBenchmark", load_model(folder), tmp_path)
    assert places == [datasets.config.HF_DATASETS_CACHE]


def test_a_file_that_was_cut_off_is_measured_again(folder: Path, data: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    first = measure("STSBenchmark", model, tmp_path, data)
    path = next(tmp_path.rglob("STSBenchmark.json"))
    whole = path.read_bytes()
    for length in (0, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert measure("STSBenchmark", model, tmp_path, data) == first
    assert json.loads(path.read_text())["task_name"] == "STSBenchmark"


def test_a_description_that_was_cut_off_is_written_again(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all tasks are measured: mteb would fail to read the results."""
    model = load_model(folder)
    measure("STSBenchmark", model, tmp_path, data)
    path = next(tmp_path.rglob("model_meta.json"))
    whole = path.read_bytes()
    calls = counted(model, monkeypatch)
    path.write_bytes(whole[:50])
    measure("STSBenchmark", model, tmp_path, data)
    assert path.read_bytes() == whole
    path.unlink()
    measure("STSBenchmark", model, tmp_path, data)
    assert path.read_bytes() == whole
    assert not calls


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tasks of a benchmark that is small for now; all who ask for it share them."""
    shared = mteb.get_benchmark("MTEB(eng, v1)")
    tasks = [mteb.get_task(name) for name in ("SciFact", "TwentyNewsgroupsClustering.v2", "STSBenchmark")]
    monkeypatch.setattr(shared, "tasks", tasks)
    return tasks


def test_a_benchmark_goes_on_after_a_failure(
    folder: Path, data: Path, tmp_path: Path, benchmark: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, places = tmp_path / "hub", [task.metadata.dataset["path"] for task in benchmark]
    (own / "mteb").mkdir(parents=True)
    for place in places[:2]:
        (own / place).symlink_to(data / place)
    model = load_model(folder)
    with pytest.raises(DataError, match=places[2]):
        measure("MTEB(eng, v1)", model, tmp_path / "results", own)
    assert [task.metadata.dataset["path"] for task in benchmark] == places  # a place that stayed would be found again
    calls = counted(model, monkeypatch)
    scores = measure("MTEB(eng, v1)", model, tmp_path / "results", data)
    assert list(scores) == [task.metadata.name for task in benchmark]
    assert {call["prompt"] for call in calls} == {"big "}  # the third task alone


def test_a_second_model_is_measured_on_the_same_samples(
    folder: Path, data: Path, tmp_path: Path, benchmark: list[Any]
) -> None:
    model = load_model(folder)
    scores = [measure("MTEB(eng, v1)", model, tmp_path / side, data) for side in ("base", "trained")]
    assert scores[0] == scores[1]
    assert scores[0] | measure("TwentyNewsgroupsClustering.v2", model, tmp_path / "alone", data) == scores[0]


def test_a_task_of_several_is_their_mean(folder: Path, data: Path, tmp_path: Path) -> None:
    task = mteb.get_task("CQADupstackRetrieval")
    source = data / "mteb" / "scifact"
    own = tmp_path / "hub"
    for part in task.metadata.tasks:
        (own / part.metadata.dataset["path"]).parent.mkdir(parents=True, exist_ok=True)
        (own / part.metadata.dataset["path"]).symlink_to(source)
    model = load_model(folder)
    alone = measure("SciFact", model, tmp_path / "results", data)["SciFact"]
    assert measure("CQADupstackRetrieval", model, tmp_path / "results", own) == {
        "CQADupstackRetrieval": pytest.approx(alone, abs=1e-6)
    }


def test_mteb_runs_our_models(folder: Path, model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    meta = model_meta(folder)
    assert meta.name == "multigrain/tiny"
    assert (meta.embed_dim, meta.max_tokens, meta.use_instructions) == (32, 24, True)
    assert meta.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    cache = mteb.ResultCache(tmp_path)
    result = mteb.evaluate(meta, redirected("SciFact", data), cache=cache, co2_tracker=False)
    path = next(tmp_path.rglob("SciFact.json"))
    assert path.parent.parts[-2:] == ("multigrain__tiny", str(meta.revision))
    assert str(folder.parent) not in (path.parent / "model_meta.json").read_text()  # nobody's business
    score = result.task_results[0].get_score()
    assert measure("SciFact", model, tmp_path / "ours", data) == {"SciFact": pytest.approx(score, abs=1e-6)}
    ours = next((tmp_path / "ours").rglob("SciFact.json"))
    assert ours.parent.parts[-2:] == path.parent.parts[-2:]  # the same model has the same name


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.prompts.update(query="another "),
        lambda model: setattr(model, "max_seq_length", 8),
        lambda model: model[0].model.embeddings.word_embeddings.weight.data[7].mul_(1.001),
        lambda model: setattr(model[0].model.config, "is_causal", True),
    ],
)
def test_whatever_changes_the_vectors_makes_another_revision(folder: Path, tmp_path: Path, change: Any) -> None:
    model = load_model(folder)
    before = Encoder(model, "x").mteb_model_meta.revision
    assert before == Encoder(load_model(copytree(folder, tmp_path / "x")), "elsewhere").mteb_model_meta.revision
    change(model)
    assert before != Encoder(model, "x").mteb_model_meta.revision


def test_weights_in_half_precision_have_a_revision(folder: Path) -> None:
    assert Encoder(load_model(folder).bfloat16(), "BAAI/some").mteb_model_meta.name == "BAAI/some"


def test_a_misspelt_name_brings_the_likely_ones(model: SentenceTransformer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'evaluation\.tasks: "mteb:SciFcat": .*wanted one such as SciFact'):
        measure("SciFcat", model, tmp_path)
    with pytest.raises(ConfigError, match=r"MTEB\(eng, v2\)"):
        measure("MTEB(en, v2)", model, tmp_path)
    with pytest.raises(ConfigError, match="not a text-only task"):
        measure("CIFAR10", model, tmp_path)
    assert not any(tmp_path.iterdir())


def test_all_unknown_names_are_told_with_the_likely_ones_in_any_case() -> None:
    with pytest.raises(ConfigError) as error:
        check_names(["scifact", "STSBenchmark", "mtop", "zzz"])
    first, second, third = error.value.faults
    has_none = f"the installed mteb {mteb.__version__} has no such task or benchmark; wanted one such as"
    assert first.startswith(f'"mteb:scifact": {has_none} SciFact or ')
    assert second.startswith(f'"mteb:mtop": {has_none} MTOP') and "another version of mteb" in second
    assert third.startswith(f'"mteb:zzz": {has_none} SciFact or MTEB(eng, v2)')


def test_a_missing_data_set_is_explained(model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    command = "hf download mteb/biosses-sts --repo-type dataset --revision [0-9a-f]{40} --local-dir"
    with pytest.raises(DataError, match=f"mteb:BIOSSES: .* on the hub. Run.*{command} DATA/mteb/biosses-sts"):
        measure("BIOSSES", model, tmp_path)
    place = data / "mteb" / "biosses-sts"
    with pytest.raises(DataError, match=f"in {place}, which is not there, and on the hub. .*{command} {place}"):
        measure("BIOSSES", model, tmp_path, data)
    write(tmp_path / "mteb" / "biosses-sts", {"test.jsonl": "{"})
    with pytest.raises(DataError, match=f"Looked in {tmp_path}/mteb/biosses-sts. Run"):
        measure("BIOSSES", model, tmp_path, tmp_path)


def test_without_mteb_the_user_is_told_how_to_get_it(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "mteb", ("no_such_package",))
    for call in (lambda: measure("SciFact", model, tmp_path), lambda: model_meta(tmp_path)):
        with pytest.raises(RunError, match=r'pip install "multigrain\[mteb\]"'):
            call()


def test_it_is_imported_without_torch_and_mteb() -> None:
    program = "import sys, multigrain.evaluation.mteb_tasks; print({'torch', 'mteb', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_progress_names_task_and_texts(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("multigrain.terminal.JSON_EVERY", 0.0)
    monkeypatch.setattr("multigrain.terminal._Json.every", 0.0)
    set_mode("json")
    try:
        measure("SciFact", load_model(folder), tmp_path, data, batch_size=2)
    finally:
        set_mode("auto")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    reports = [line for line in lines if line.get("work") == "mteb:SciFact"]
    assert [line["texts"] for line in reports if "texts" in line] == [12, 28, 36]
    assert reports[-1]["done"] == reports[-1]["total"] == 1


# Models trained with instructions


@pytest.fixture
def instructed(tiny_encoder: Path) -> SentenceTransformer:
    section = ModelSection(
        base=str(tiny_encoder), instruction="find it", query_prompt="the {instruction} eat ", document_prompt="small "
    )
    return build_model(section)


def test_a_model_trained_with_instructions_has_those_of_mteb(
    instructed: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the description of the task, text or by role; if it has none, from mteb's for all tasks of the kind."""
    from mteb.types import PromptType

    calls = counted(instructed, monkeypatch)
    options: Any = {"hf_split": "test", "hf_subset": "default"}
    for given in ({}, {"SciFact": "find a fish", "STSBenchmark": "the dog"}):
        encoder = Encoder(instructed, "x", given)
        for task, role in (
            ("SciFact", "query"),
            ("SciFact", "document"),
            ("STSBenchmark", None),
            ("Core17InstructionRetrieval", "query"),
        ):
            metadata = mteb.get_task(task).metadata
            role_of_mteb = None if role is None else PromptType(role)
            encoder.encode([{"text": ["cat"]}], task_metadata=metadata, prompt_type=role_of_mteb, **options)
    scifact, core = (
        mteb.get_task("SciFact").metadata.prompt,
        mteb.get_task("Core17InstructionRetrieval").metadata.prompt,
    )
    assert scifact == {"query": "Given a scientific claim, retrieve documents that support or refute the claim"}
    own = core["query"] if isinstance(core, dict) else core or "Retrieve text based on user query."
    sts = "Retrieve semantically similar text."
    assert [call["prompt"].rstrip() for call in calls] == [
        f"the {scifact['query']} eat",
        "small",
        f"the {sts} eat",
        f"the {own} eat",
        "the find a fish eat",
        "small",
        "the the dog eat",
        f"the {own} eat",
    ]


def test_both_sides_of_a_symmetric_task_have_its_instruction(
    instructed: SentenceTransformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(instructed, monkeypatch)
    rows = [json.loads(line) for line in (data / "mteb/stsbenchmark-sts/test.jsonl").read_text().splitlines()]
    texts = {row[side] for row in rows for side in ("sentence1", "sentence2")}
    for given, own in (({}, "Retrieve semantically similar text."), ({"STSBenchmark": "the dog"}, "the dog")):
        calls.clear()
        measure("STSBenchmark", instructed, tmp_path, data, instructions=given)
        assert {text for call in calls for text in call["texts"]} == texts
        assert {call["prompt"] for call in calls} == {f"the {own} eat "}


def test_a_prompt_that_is_only_named_instruction_is_none(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mteb.types import PromptType

    model = SentenceTransformer(str(tiny_encoder), prompts={"query": "big ", "instruction": "small "})
    calls = counted(model, monkeypatch)
    encoder = Encoder(model, "x", {"SciFact": "find a fish"})
    assert encoder.mteb_model_meta.revision == Encoder(model, "x").mteb_model_meta.revision
    options: Any = {"hf_split": "test", "hf_subset": "default"}
    for task, role in (("SciFact", PromptType.query), ("STSBenchmark", None)):
        metadata = mteb.get_task(task).metadata
        encoder.encode([{"text": ["cat"]}], task_metadata=metadata, prompt_type=role, **options)
    assert [call["prompt"] for call in calls] == ["big ", ""]


def test_a_given_instruction_is_measured_as_ours_are(
    instructed: SentenceTransformer, data: Path, tmp_path: Path
) -> None:
    """It is another revision, so that the result of the task's own instruction stays."""
    corpus, queries, relevant = retrieval()
    qrels = "query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in relevant)
    write(tmp_path / "b", {"corpus.jsonl": jsonl(corpus), "queries.jsonl": jsonl(queries), "qrels/test.tsv": qrels})
    task = with_instruction(read_beir_task(tmp_path / "b", "test"), "find the big dog")
    ours = overall(evaluate(task, ModelEncoder(instructed, "x")).scores.values())
    given = {"SciFact": "find the big dog"}
    scores = measure("SciFact", instructed, tmp_path / "results", data, instructions=given)
    assert scores["SciFact"] == pytest.approx(ours["nDCG@10"], abs=5.1e-6)
    assert measure("SciFact", instructed, tmp_path / "results", data) != scores
    assert len(list((tmp_path / "results").rglob("SciFact.json"))) == 2


def test_an_instruction_for_a_task_that_is_not_measured_is_refused(benchmark: list[Any]) -> None:
    check_names(["MTEB(eng, v1)"], ["SciFact"])
    with pytest.raises(ConfigError, match='"mteb:SciFcat" is not among the tasks .* such as "mteb:SciFact"'):
        check_names(["MTEB(eng, v1)"], ["SciFcat"])


def test_the_files_of_a_benchmark_are_those_that_a_leaderboard_reads(
    instructed: SentenceTransformer, data: Path, tmp_path: Path, benchmark: list[Any]
) -> None:
    scores = measure("MTEB(eng, v1)", instructed, tmp_path, data)
    meta = json.loads(next(tmp_path.rglob("model_meta.json")).read_text())
    assert mteb.models.ModelMeta.model_validate({**meta, "loader": None}).use_instructions is True
    found = mteb.ResultCache(tmp_path).load_results(models=[meta["name"]], tasks=list(scores), only_main_score=True)
    read = {result.task_name: result.get_score() for model in found.model_results for result in model.task_results}
    assert read == pytest.approx(scores)
