import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from multigrain.config import Config, ExportSection, ModelSection
from multigrain.errors import RunError
from multigrain.export import model_folder
from multigrain.export.card import Lesson, model_card
from multigrain.export.dataset_card import dataset_card
from multigrain.export.tuple_survey import Survey
from multigrain.export.verify import verify
from multigrain.model.build import build_model
from multigrain.model.load import load_model
from multigrain.pipeline.choice import as_exported
from multigrain.training.grade_schedules import phases_of
from tests.model.saved_models import shallow

SUMMARY: dict[str, Any] = {
    "base": {"held-out": {"nDCG@10": 0.5}},
    "trained": {"held-out": {"nDCG@10": 0.625}},
    "difference": {"held-out": {"nDCG@10": [0.125, 0.1, 0.15]}},
    "verdict": [],
    "counts": {
        "train_pairs": 11,
        "held_out_pairs": 22,
        "written": 33,
        "mined": 44,
        "dropped": 55,
        "negatives": 66,
        "tuples": 77,
    },
}


NEGATIVES = {("llm", 1): 301, ("llm", 4): 302, ("mined", 2): 303}


PROMPTS = {"query": "query: ", "document": "passage: "}


ALL_GRADES = {"training": {"schedule": "all-at-once", "batch_size": 32}}


def card_of(
    settings: dict[str, Any] | None = None,
    summary: dict[str, Any] = SUMMARY,
    prompts: dict[str, str] | None = None,
    **lesson: Any,
) -> str:
    config = Config.model_validate(
        {"name": "mine", "data": {"pairs": "/home/me/secret/pairs.jsonl"}, **(settings or {})}
    )
    known = {"phases": phases_of(config.training), "negatives": NEGATIVES, "with_code": True, **lesson}
    return model_card(config, summary, prompts or {}, Lesson(**known))


def metadata_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def test_the_card_tells_figures_data_and_schedule() -> None:
    card = card_of(ALL_GRADES)
    assert "| held-out | nDCG@10 | 0.500 | 0.625 | +0.125 | [+0.100, +0.150] |" in card
    assert "| all grades | 1, 2, 3, 4 | 60 | 0.05 |" in card
    assert "trust_remote_code=True" in card
    assert "11 for training, 22 held out" in card
    assert "/home/me" not in card
    assert "mixed in" not in card
    card = card_of({"training": {"seed": 7, "base_share": 0.3}}, with_code=False)
    assert "trust_remote_code" not in card
    assert "seed 7. After training, 30% of the base's weights were mixed in." in card


def test_the_card_names_each_of_several_sources_and_those_that_were_not_trained_on() -> None:
    pairs = {"mine": "/home/me/pairs.jsonl", "nq": "hf:org/nq:pairs", "rest": "beir:/home/me/rest:train"}
    sources = [{"name": name, "pairs": path, "weight": float(name != "rest")} for name, path in pairs.items()]
    assert (
        "Pairs from mine (`pairs.jsonl`), nq (`hf:org/nq:pairs`), rest (`rest:train`, not trained on): 11 for training"
    ) in card_of({"data": {"sources": sources}})


def test_the_card_has_the_first_metric_of_each_source_unless_another_model_is_exported() -> None:
    metrics = {"nDCG@10": 0.25, "MRR@10": 0.5}
    of_mine = {"held-out mine": metrics}
    differences = {"held-out mine": dict.fromkeys(metrics, (0.0, -0.1, 0.1))}
    summary = {**SUMMARY, "by_source": {"base": of_mine, "trained": of_mine, "difference": differences}}
    row = "| held-out mine | nDCG@10 | 0.250 | 0.250 | +0.000 | [-0.100, +0.100] |"
    assert row in card_of(summary=summary) and "held-out mine | MRR@10" not in card_of(summary=summary)
    assert row not in card_of(summary=as_exported(summary, "base"))


def test_the_card_names_each_of_several_sources_and_who_wrote_its_pairs() -> None:
    sources = [
        {"name": "mine", "pairs": "/home/me/pairs.jsonl"},
        {"name": "manual", "mode": "corpus", "corpus": "/home/me/manual.jsonl"},
        {"name": "tasks", "mode": "tasks"},
    ]
    written = "queries that a language model wrote for passages of `manual.jsonl`"
    card = card_of({"data": {"sources": sources}, "synthesis": {"domains": ["law"]}})
    assert f"mine (`pairs.jsonl`), manual ({written}), tasks (invented by a language model: law): 11 for train" in card


def test_the_card_tells_what_the_model_needs_and_what_its_base_was_measured_with() -> None:
    assert "Needs sentence-transformers 6.2 or newer." in card_of()
    assert "Needs sentence-transformers 5.1 or newer." in card_of(release="5.1")
    assert "Its base was evaluated with its own prompts" in card_of(prompts=PROMPTS)
    given = {"model": {"query_prompt": "query: ", "document_prompt": "passage: "}}
    assert "Its base was evaluated with the same prompts" in card_of(given, prompts=PROMPTS)


def test_the_card_counts_the_negatives_that_training_could_see() -> None:
    card = card_of(ALL_GRADES)
    assert "drew from 77 tuples (60 steps of 32 tuples each), with 906 negatives of the grades in its schedule:" in card
    assert "| written by the language model | 301 | 0 | 0 | 302 |" in card
    assert "| mined from the corpus, or given | 0 | 303 | 0 | 0 |" in card
    assert "33" not in card and "44" not in card and "55" not in card  # what was written, mined and dropped
    card = card_of({"training": {"steps": 2, "batch_size": 32, "schedule": "in-batch"}}, negatives={})
    assert "(2 steps of 32 tuples each, so at most 64 of them), with in-batch negatives only" in card


def test_the_card_tells_the_batches_as_they_were() -> None:
    """A self-paced training, or several processes, have less than all tuples in a step."""
    settings = {"training": {"batch_size": 128, "steps": 2, "schedule": "in-batch"}}
    trained = {**SUMMARY, "counts": {**SUMMARY["counts"], "tuples_per_step": 60}}
    for summary, batch in ((SUMMARY, 77), (trained, 60)):
        card = card_of(settings, summary)
        assert f"Batch size {batch}, learning rate" in card and f"(2 steps of {batch} tuples each)" in card
    assert "(1 step of 60 tuples each, so at most 60 of them)" in card_of(
        {"training": {**settings["training"], "steps": 1}}, trained
    )


def test_the_card_has_what_hubs_read() -> None:
    card = card_of(languages=["en", "de"])
    data: Any = ModelCard(card).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2" and data.license == "apache-2.0"
    assert data.language == ["en", "de"] and data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert set(data.tags or []) >= {"sentence-transformers", "sentence-similarity", "feature-extraction", "multigrain"}
    assert data.model_name == "mine"
    (result,) = data.eval_results or []
    assert (result.task_type, result.dataset_name, result.dataset_type) == (
        "information-retrieval",
        "held-out",
        "held-out",
    )
    assert (result.metric_type, result.metric_name, result.metric_value) == ("cosine_ndcg@10", "nDCG@10", 0.625)
    assert "pypi.org" not in card and "http" not in card
    assert "pypi.org" not in dataset_card(Survey(Counter({3: 2}), has_instructions=False))


def test_tasks_of_all_kinds_stay_apart_in_the_metadata() -> None:
    tasks = {
        "held-out": "nDCG@10",
        "beir:scifact:test": "nDCG@10",
        "sts:stsb": "Spearman",
        "graded:x": "accuracy 1",
        "mteb:STS17": "cosine_spearman",
    }
    scores = {task: {metric: 0.5} for task, metric in tasks.items()}
    difference = {task: {metric: [0.0, None, None]} for task, metric in tasks.items()}
    index = metadata_of(card_of(summary={**SUMMARY, "base": scores, "trained": scores, "difference": difference}))[
        "model-index"
    ]
    found = {result["dataset"]["name"]: result for result in index[0]["results"]}
    assert found.keys() == tasks.keys()
    assert len({result["task"]["type"] for result in found.values()}) == 4
    assert found["graded:x"]["metrics"][0]["type"] == "accuracy_1"
    unmeasured = card_of(summary={**SUMMARY, "base": {}, "trained": {}, "difference": {}})
    assert "model-index" not in metadata_of(unmeasured)


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: mit\nlanguage: fr\n---\n# A model\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "mine"},
        ),
        ("---\nlicense: [mit, x]\n---\n", {}),
        ("---\nlicense: {: [\n---\n", {}),
        ("# no metadata\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_the_bases(readme: str | None, expected: dict[str, str], tmp_path: Path) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    found = metadata_of(card_of({"model": {"base": str(tmp_path)}}))
    assert {key: found[key] for key in found if key.startswith("license") and key != "license_link"} == expected
    assert "base_model" not in found and str(tmp_path) not in str(found) and "language" not in found


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("org/some-model_1.5", "org/some-model_1.5"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("embedded-llm", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("models/some.gguf", None),
        ("./absent", None),
        ("a/b/c", None),
    ],
)
def test_the_base_is_named_as_the_hub_does(base: str, name: str | None) -> None:
    found = metadata_of(card_of({"model": {"base": base}}))
    assert found.get("base_model") == name
    assert found.get("license") == ("apache-2.0" if base == "embedded-llm" else None)


def test_an_export_with_graphs(tiny_encoder: Path, tmp_path: Path) -> None:
    base, trained = str(shallow(tiny_encoder, tmp_path / "base")), tmp_path / "trained"
    build_model(ModelSection(base=base, pooling="anchor", max_tokens=16)).save_pretrained(str(trained))
    model_folder.export_model(trained, tmp_path / "model", "# card\n", ExportSection(onnx=True, int8=True))
    onnx = {"model.onnx", "model_int8.onnx", "prompts.json", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "model" / "onnx").iterdir()} == onnx
    seen = {finding.name: finding for finding in verify(tmp_path / "model")}
    assert seen["ONNX"].is_good
    build_model(ModelSection(base=base, pooling="mean")).save_pretrained(str(tmp_path / "other"))
    shutil.copytree(tmp_path / "model" / "onnx", tmp_path / "other" / "onnx")
    assert not next(finding for finding in verify(tmp_path / "other") if finding.name == "ONNX").is_good


def test_an_export_is_whole_or_not_there(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tmp_path / "trained"
    build_model(ModelSection(base=str(tiny_encoder), pooling="anchor", max_tokens=16)).save_pretrained(str(trained))
    model_folder.export_model(trained, tmp_path / "model", "# card\n", ExportSection())
    model_folder.export_model(trained, tmp_path / "model", "# another card\n", ExportSection())
    assert (tmp_path / "model" / "README.md").read_text() == "# another card\n"
    texts = ["the cat", "a dog sleeps"]
    np.testing.assert_array_equal(load_model(tmp_path / "model").encode(texts), load_model(trained).encode(texts))

    monkeypatch.setattr(model_folder, "CLOSE", -1.0)
    with pytest.raises(RunError, match="gives other vectors"):
        model_folder.export_model(trained, tmp_path / "model", "# third card\n", ExportSection())
    assert (tmp_path / "model" / "README.md").read_text() == "# another card\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "trained"]
