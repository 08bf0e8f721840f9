"""Prompts before queries and documents, from the configuration to the last search."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from multigrain.cli.main import main
from multigrain.config import GradingSection, MiningSection, ModelSection, PhaseSection, TrainingSection, load_config
from multigrain.data.beir import RetrievalTask
from multigrain.data.jsonl import read_documents, read_tuples
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.errors import ConfigError
from multigrain.evaluation.evaluate import evaluate
from multigrain.grading.judges import EmbeddingJudge
from multigrain.grading.query_filter import filter_queries
from multigrain.model.build import build_model
from multigrain.model.encode import CachedEncoder, encode
from multigrain.model.load import load_base, load_model
from multigrain.model.prompts import prompts_of
from multigrain.model.roles import Role, Vectors
from multigrain.pipeline import freshness, verbs
from multigrain.pipeline.check import check
from multigrain.pipeline.encoders import base_encoder, judge_encoder, trained_encoder
from multigrain.pipeline.preflight import require
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Document, GradedTuple, Negative, Pair
from multigrain.retrieval.mine import mine_candidates
from multigrain.training import train
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.train import train_model
from tests.conftest import ROUNDED, WORDS, small_pairs
from tests.model.saved_models import joining_encoder

QUERY, PASSAGE = "what does the old house eat ", "small "
INSTRUCTION = "find the animal in the garden"
TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish"]


@pytest.fixture(scope="module")
def prompted(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with prompts of its own, the one of documents by a name that the host does not come to."""
    model = SentenceTransformer(str(tiny_encoder), prompts={"query": QUERY, "passage": PASSAGE})
    folder = tmp_path_factory.mktemp("prompted")
    model.save(str(folder))
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    del settings["prompts"]["document"]  # the host's own, which is empty
    path.write_text(json.dumps(settings))
    return folder


def built(base: Path, **settings: Any) -> SentenceTransformer:
    return build_model(ModelSection(base=str(base), **{"pooling": "anchor", "max_tokens": 32, **settings}))


def test_an_instruction_takes_the_place_of_the_bases_prompts(prompted: Path, tmp_path: Path) -> None:
    own = built(prompted)
    assert own.prompts == {"query": QUERY, "document": PASSAGE, "passage": PASSAGE}
    np.testing.assert_allclose(own.encode_document(TEXTS), encode(own, TEXTS, "document", "x"), atol=1e-6)
    np.testing.assert_allclose(encode(own, ["cat"], "query", "x"), own.encode([QUERY + "cat"]), atol=1e-6)
    np.testing.assert_allclose(encode(own, ["cat"], "document", "x"), own.encode([PASSAGE + "cat"]), atol=1e-6)

    with_instruction = built(prompted, instruction=INSTRUCTION)
    saved = {"query": f"Instruct: {INSTRUCTION}\nQuery: ", "instruction": "Instruct: {instruction}\nQuery: "}
    assert with_instruction.prompts == {**saved, "document": ""}
    with_instruction.save_pretrained(str(tmp_path))
    assert prompts_of(str(tmp_path)) == saved
    alone = SentenceTransformer(str(tmp_path), trust_remote_code=True)
    np.testing.assert_allclose(alone.encode_query(TEXTS), encode(load_model(tmp_path), TEXTS, "query", "x"), atol=1e-6)
    np.testing.assert_array_equal(alone.encode_document(TEXTS), with_instruction.encode(TEXTS))
    assert np.abs(alone.encode_query(TEXTS) - alone.encode_document(TEXTS)).max() > 0.05


@pytest.mark.parametrize("pooling", ["anchor", "mean"])
def test_a_prompt_left_out_of_the_pooling_by_hand(prompted: Path, pooling: str) -> None:
    model = built(prompted, pooling=pooling, prompt_in_pooling=False)
    features = model[0](model.preprocess([QUERY + text for text in TEXTS]))
    mask = features["attention_mask"].clone()
    mask[:, : len(QUERY.split()) + 1] = 0  # and [CLS]
    weights = mask * features.get("anchor_scores", torch.ones(mask.shape))
    pooled = torch.einsum("bn,bnd->bd", weights / weights.sum(1, keepdim=True), features["token_embeddings"])
    expected = torch.nn.functional.normalize(pooled).detach().numpy()
    np.testing.assert_allclose(encode(model, TEXTS, "query", "x"), expected, atol=1e-6)
    with_prompt = built(prompted, pooling=pooling)
    assert np.abs(encode(with_prompt, TEXTS, "query", "x") - expected).max() > 0.01


@pytest.fixture(scope="module")
def joining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return joining_encoder(tmp_path_factory.mktemp("joining"))


def test_the_first_word_stays_where_a_tokenizer_joins_it_with_the_prompt(joining: Path) -> None:
    settings = {"instruction": "x", "max_tokens": 64, "prompt_in_pooling": False}
    model = built(joining, **settings)
    prompt = model.prompts["query"]
    assert prompt is not None
    features = model.preprocess(["cat"], prompt=prompt)
    rest = features["input_ids"][0, features["prompt_length"] :]
    assert model.tokenizer.convert_ids_to_tokens(rest) == ["Ġc", "a", "t"]
    # The host's own transformer would count the space, and leave the word out.
    with pytest.raises(ConfigError, match=r"model.prompt_in_pooling: found false; the tokenizer joins"):
        built(joining, pooling="mean", **settings)
    built(joining, pooling="mean", **{**settings, "prompt_in_pooling": True})


def test_a_prompt_that_leaves_no_room_is_refused(prompted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.max_tokens: found 8, but the prompt .* alone takes 8; raise"):
        built(prompted, max_tokens=8)
    section = SECTION.model_copy(update={"max_tokens": 8})
    with pytest.raises(ConfigError, match=r"training.max_tokens: found 8, but the prompt"):
        train_model(built(prompted), curriculum(), section, tmp_path, seed=7)
    for instruction in ("", " ", "two\nlines"):
        with pytest.raises(ValueError, match="instruction"):
            ModelSection(instruction=instruction)


# Training

SECTION = TrainingSection(
    batch_size=4,
    learning_rate=1e-3,
    phases=[PhaseSection(name="query", grades=[], steps=1), PhaseSection(name="positive", grades=[1, 4], steps=2)],
)


def curriculum() -> Curriculum:
    negatives = tuple(Negative(f"{WORDS[grade]} {WORDS[-grade]}", grade, grade / 4, "llm") for grade in (1, 4))
    tuples = [GradedTuple(p["id"], p["query"], p["positive"], negatives) for p in small_pairs(12)]
    return plan(tuples, SECTION.phases, SECTION.batch_size)


def tokenized(model: SentenceTransformer, step: int) -> dict[tuple[Role, tuple[int, ...]], str]:
    """The texts of a step, by their role and their tokens with its prompt."""
    planned = curriculum()
    rows = [planned.row(step, position, planned.phase_at(step)) for position in range(planned.batch_size)]
    texts: list[tuple[Role, str, str]] = [("query", QUERY, row.query) for row in rows]
    texts += [("document", PASSAGE, document.text) for row in rows for document in row.documents]
    return {(role, tuple(model.tokenizer(prompt + text)["input_ids"])): text for role, prompt, text in texts}


@pytest.mark.parametrize("micro_batch_tokens", [4096, 20])
@pytest.mark.parametrize("prompt_in_pooling", [True, False])
def test_training_sees_what_encoding_will(
    prompted: Path, tmp_path: Path, prompt_in_pooling: bool, micro_batch_tokens: int
) -> None:
    """Also where a phase has the name of a column, by which the host would find its prompts."""
    model = built(prompted, prompt_in_pooling=prompt_in_pooling)
    section = SECTION.model_copy(update={"micro_batch_tokens": micro_batch_tokens})
    trainer = train._trainer(model, curriculum(), section, folder=tmp_path, seed=7, phase_at=curriculum().phase_at)
    model.eval()
    for step, batch in enumerate(trainer.get_train_dataloader()):
        assert batch["dataset_name"] == f"phase_{curriculum().phase_at(step)}"
        columns = [name.removesuffix("_input_ids") for name in batch if name.endswith("_input_ids")]
        by_ids = tokenized(model, step)
        vectors = []
        for column in columns:
            ids, mask = batch[f"{column}_input_ids"], batch[f"{column}_attention_mask"].bool()
            role: Role = "query" if column == "query" else "document"
            texts = [by_ids[role, tuple(row[valid].tolist())] for row, valid in zip(ids, mask, strict=True)]
            vectors.append(torch.tensor(encode(model, texts, role, "x")))
        logits = vectors[0] @ torch.cat(vectors[1:]).T / 0.05
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
        with torch.no_grad():
            loss: Any = trainer.compute_loss(model, batch)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_a_model_without_prompts_trains_without(tiny_encoder: Path, tmp_path: Path) -> None:
    trainer = train._trainer(
        built(tiny_encoder), curriculum(), SECTION, folder=tmp_path, seed=7, phase_at=curriculum().phase_at
    )
    assert trainer.args.prompts is None
    assert not any("prompt" in name for batch in trainer.get_train_dataloader() for name in batch)


# Who encodes what


def by_letter(texts: Sequence[str], role: Role) -> Vectors:
    """Texts that begin with q may be queries alone, those that begin with d documents alone."""
    assert {text[0] for text in texts} <= {role[0]}
    angles = np.array([float(text.split()[-1]) if role == "document" else 0.0 for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_every_measurement_encodes_queries_as_queries_and_documents_as_documents() -> None:
    corpus = [Document(f"d{number}", f"d {number / 10}") for number in range(8)]
    task = RetrievalTask("t", {"q": "q one"}, corpus, {"q": {"d0": 1}})
    assert evaluate(task, by_letter).rankings["q"][:2].tolist() == [0, 1]
    pairs = [Pair("p", "q one", "d 0.0")]
    bounds = (0.8, 0.9, 0.95, 0.999)
    mining = MiningSection(methods=["embedding"])
    (mined,) = mine_candidates(pairs, FalseNegatives(pairs), corpus, by_letter, bounds, mining=mining)
    assert set(mined.grade.tolist()) == {1, 2, 3, 4}
    assert [pair.id for pair in filter_queries(pairs, corpus, by_letter, GradingSection(), 7).kept] == ["p"]
    assert EmbeddingJudge(by_letter).relevance("q one", "d 0.5") == pytest.approx(np.cos(0.5))


def test_kept_vectors_of_queries_and_documents_do_not_mix(prompted: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    model, bare = load_base(str(prompted)), load_base(str(tiny_encoder))

    def never() -> SentenceTransformer:
        raise AssertionError("loaded")

    for prompts in (prompts_of(str(prompted)), None):  # known before the model is loaded, and not
        path = tmp_path / f"{prompts is None}.bin"
        embed = CachedEncoder(lambda: model, "m", path, "x", prompts)
        queries, documents = embed(TEXTS, "query"), embed(TEXTS, "document")
        np.testing.assert_allclose(queries, model.encode(TEXTS, prompt=QUERY, normalize_embeddings=True), atol=ROUNDED)
        np.testing.assert_allclose(
            documents, model.encode(TEXTS, prompt=PASSAGE, normalize_embeddings=True), atol=ROUNDED
        )
    kept = CachedEncoder(never, "m", path, "x", prompts_of(str(prompted)))
    np.testing.assert_array_equal(kept(TEXTS, "query"), queries)
    np.testing.assert_array_equal(kept(TEXTS, "document"), documents)

    alike = CachedEncoder(lambda: bare, "m", tmp_path / "bare.bin", "x", {})
    alike(TEXTS, "document")
    size = (tmp_path / "bare.bin").stat().st_size
    alike(TEXTS, "query")
    assert (tmp_path / "bare.bin").stat().st_size == size


def test_prompts_are_known_before_the_model_is_loaded(prompted: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    assert prompts_of(str(prompted)) == {"query": QUERY, "passage": PASSAGE}
    assert prompts_of(str(tiny_encoder)) == prompts_of("embedded") == {}
    assert prompts_of("nobody/has-this") is prompts_of("no name at all/") is None
    for damaged in ("{", "[]"):
        (tmp_path / "config_sentence_transformers.json").write_text(damaged)
        assert prompts_of(str(tmp_path)) is None


# A whole run


@pytest.fixture
def prompted_toml(run_toml: Path, tiny_encoder: Path, prompted: Path) -> Path:
    text = run_toml.read_text().replace(str(tiny_encoder), str(prompted))
    run_toml.write_text(text.replace("max_tokens = 32", f'max_tokens = 32\ninstruction = "{INSTRUCTION}"'))
    return run_toml


def test_a_whole_run_encodes_with_the_prompts_of_each_model(
    prompted_toml: Path, prompted: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("pairs.jsonl", [{**pair, "instruction": "another"} for pair in small_pairs()])
    assert main(["run", str(prompted_toml)]) == 0
    assert "tuples have an instruction (1 different); the others have" in capsys.readouterr().err
    config = load_config(prompted_toml)
    run_dir = RunDir(config.folder)
    assert {graded.instruction for graded in read_tuples(run_dir.tuples)} == {"another"}
    base, trained = load_base(str(prompted), 32), load_model(run_dir.model)
    instruction = f"Instruct: {INSTRUCTION}\nQuery: "
    for embed, model, prompts in (
        (judge_encoder(config, run_dir), load_base(str(prompted)), {"query": QUERY, "document": PASSAGE}),
        (base_encoder(config, run_dir), base, {"query": QUERY, "document": PASSAGE}),
        (trained_encoder(run_dir.model, run_dir.vectors), trained, {"query": instruction, "document": ""}),
    ):
        for role in ("query", "document"):
            expected = model.encode(TEXTS, prompt=prompts[role], normalize_embeddings=True)
            np.testing.assert_allclose(embed(TEXTS, role), expected, atol=ROUNDED)

    documents = list(read_documents(run_dir.corpus))
    vectors = trained.encode([document.text for document in documents])
    scores = trained.encode([f"{instruction}where is the cat"]) @ vectors.T
    found = verbs.search(config.folder, "where is the cat", 3, retriever="dense")
    assert [score for score, _ in found] == pytest.approx(sorted(scores[0].tolist(), reverse=True)[:3], abs=ROUNDED)
    card = (run_dir.model / "README.md").read_text()
    assert json.dumps(instruction) in card and "`encode_document` nothing" in card

    # A prompt of the base that changes is another base.
    before = freshness.finished(config, run_dir)
    settings = prompted / "config_sentence_transformers.json"
    original = settings.read_text()
    settings.write_text(original.replace(PASSAGE, "big "))
    assert set(before) - set(freshness.finished(config, run_dir)) >= {"synthesize", "grade", "train", "evaluate"}
    settings.write_text(original)


def test_check_tells_the_prompts(
    prompted_toml: Path, run_toml: Path, tiny_encoder: Path, write_jsonl: Callable[..., Path]
) -> None:
    def line(*settings: str) -> str:
        return next(line for line in check(load_config(prompted_toml, settings)).splitlines() if "prompts  " in line)

    found = line("model.prompt_in_pooling=false")
    assert r'"Instruct: find the animal in the garden\nQuery: " before queries, "" before documents' in found
    assert "from model.instruction, left out of the pooling" in found
    pairs = small_pairs()
    write_jsonl("pairs.jsonl", [*({**pair, "instruction": "another"} for pair in pairs[:30]), *pairs[30:]])
    found = check(load_config(prompted_toml))
    assert "training pairs with an instruction (1 different)" in found
    assert r'"Instruct: {instruction}\nQuery: " before queries with an instruction' in found
    prompted_toml.write_text(prompted_toml.read_text().replace(f'instruction = "{INSTRUCTION}"', ""))
    assert line().endswith(f'"{QUERY}" before queries, "{PASSAGE}" before documents; the base\'s own')
    assert "none, neither" in line(f"model.base={tiny_encoder}")
    found = line(f"model.base={tiny_encoder}", "model.query_prompt=find {instruction}:")
    assert '"find {instruction}:" before queries with an instruction, none before other texts' in found
    found = check(load_config(prompted_toml, ["model.query_prompt=the "]))
    assert "(1 different; model.query_prompt is used in their place)" in found
    with pytest.raises(ConfigError, match="nobody/has-this: no such folder, and not in the hub's cache"):
        line("model.base=nobody/has-this")


@pytest.mark.parametrize(
    ("settings", "query", "document"),
    [
        ({"query_prompt": "query: ", "document_prompt": "passage: "}, "query: ", "passage: "),
        ({"query_prompt": "query: "}, "query: ", PASSAGE),
        ({"document_prompt": ""}, QUERY, ""),
    ],
)
def test_prompts_that_the_files_of_a_base_do_not_say(
    settings: dict[str, str], query: str, document: str, prompted: Path, run_toml: Path, tmp_path: Path
) -> None:
    """Given in place of the base's own, in the model that is built and in whatever the base is measured by."""
    model = built(prompted, **settings)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = load_model(tmp_path / "saved")
    for text_role, prompt, encode_text in (
        ("query", query, loaded.encode_query),
        ("document", document, loaded.encode_document),
    ):
        np.testing.assert_allclose(encode_text(TEXTS), model.encode([prompt + text for text in TEXTS]), atol=1e-6)
        sets = [
            f"{section}.{name}={json.dumps(value)}"
            for section in ("model", "grading")
            for name, value in settings.items()
        ]
        config = load_config(run_toml, [f"model.base={prompted}", f"grading.judge_model={prompted}", *sets])
        expected = load_base(str(prompted), 32).encode([prompt + text for text in TEXTS], normalize_embeddings=True)
        for encoder in (base_encoder, judge_encoder):
            role: Any = text_role
            np.testing.assert_allclose(encoder(config, RunDir(tmp_path))(TEXTS, role), expected, atol=ROUNDED)
    shown = check(config)
    assert (
        f"{json.dumps(query)} before queries, {json.dumps(document)} before documents; from model.query_prompt" in shown
    )


def test_given_prompts_decide_the_outcome_and_exclude_an_instruction(run_toml: Path) -> None:
    plain, model, judge = (
        load_config(run_toml, sets) for sets in ([], ["model.query_prompt=query: "], ["grading.query_prompt=query: "])
    )
    assert plain.fingerprint("model") != model.fingerprint("model")
    assert plain.fingerprint("judging") == model.fingerprint("judging") != judge.fingerprint("judging")
    assert load_config(run_toml, ["grading.precision=bf16"]).fingerprint("judging") != plain.fingerprint("judging")
    with pytest.raises(ConfigError, match=r"query_prompt: found 'x' beside an instruction; wanted a prompt with"):
        load_config(run_toml, ["model.instruction=find it", "model.query_prompt=x"])
    with pytest.raises(ConfigError, match="max_tokens: found 8, but the prompt .* alone takes"):
        require(load_config(run_toml, [f"model.query_prompt={'the cat ' * 8}", "model.max_tokens=8"]))


def test_an_instruction_of_a_pair_that_leaves_no_room_is_refused_first(
    run_toml: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is written or paid for; by `check` too."""
    write_jsonl("pairs.jsonl", [{**pair, "instruction": "find the cat " * 10} for pair in small_pairs()])
    for verb in ("synthesize", "check"):
        for setting, key in (("model.max_tokens=24", "model"), ("training.max_tokens=16", "training")):
            assert main([verb, str(run_toml), "--set", setting]) == 2
            found = capsys.readouterr().err
            assert f"{key}.max_tokens: found" in found
            assert "with the instruction 'find the cat find the cat" in found and "of a pair takes" in found
