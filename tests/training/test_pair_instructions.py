"""Training in which each query has the instruction of its own pair."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from multigrain.config import LoraSection, ModelSection, PhaseSection, TrainingSection, load_config
from multigrain.errors import ConfigError
from multigrain.model.build import build_model, check_instructions
from multigrain.model.encode import CachedEncoder, ModelEncoder
from multigrain.model.roles import embed_queries, query_prompt
from multigrain.pipeline.stages.train import _read_instructions
from multigrain.records import GradedTuple, Negative
from multigrain.training import train
from multigrain.training.batches import token_rows
from multigrain.training.callbacks import margin_on
from multigrain.training.curriculum import Curriculum, plan
from multigrain.training.guide import Guide
from multigrain.training.loss import Encoding, GradedLoss
from multigrain.training.neighbours import vectors_of
from multigrain.training.prompted_texts import PromptedText, tokenized
from multigrain.training.train import train_model
from tests.conftest import ROUNDED, WORDS, small_pairs
from tests.model.decoder import tiny_decoder
from tests.training.test_loss import assert_same, value_and_gradient

INSTRUCTIONS = (None, "find the cat", "where is the big dog in the garden", "find a fish")
PLACE = "the {instruction} eat "
"""A template in the words of the tiny encoder."""
SECTION = TrainingSection(
    batch_size=4, learning_rate=1e-3, phases=[PhaseSection(name="one", grades=[1, 4], steps=3)], dropout=False
)


def built(base: Path, **settings: Any) -> SentenceTransformer:
    instructed = {"instruction": "find it", "query_prompt": PLACE, "pooling": "mean", "max_tokens": 40, **settings}
    return build_model(ModelSection(base=str(base), **instructed))


def tuples_with(instructions: Sequence[str | None]) -> list[GradedTuple]:
    negatives = tuple(Negative(f"{WORDS[grade]} {WORDS[-grade]}", grade, grade / 4, "llm") for grade in (1, 4))
    return [
        GradedTuple(pair["id"], pair["query"], pair["positive"], negatives, instructions[number % len(instructions)])
        for number, pair in enumerate(small_pairs(12))
    ]


def planned(instructions: Sequence[str | None] = INSTRUCTIONS) -> Curriculum:
    return plan(tuples_with(instructions), SECTION.phases, SECTION.batch_size)


def vectors_alone(model: SentenceTransformer, texts: Sequence[PromptedText]) -> torch.Tensor:
    """Each text encoded alone with its prompt, as sentence-transformers does it."""
    return torch.tensor(np.stack([model.encode(each.text, prompt=each.prompt) for each in texts]))


def batches(
    model: SentenceTransformer, curriculum: Curriculum, folder: Path, section: TrainingSection = SECTION
) -> Any:
    trainer = train._trainer(model, curriculum, section, folder=folder, seed=7, phase_at=curriculum.phase_at)
    model.eval()
    return trainer, enumerate(trainer.get_train_dataloader())


@pytest.mark.parametrize("micro_batch_tokens", [4096, 20])
@pytest.mark.parametrize("activation_gb", [0.0, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt_in_pooling": False},
        {"prompt_in_pooling": False, "pooling": "anchor"},
        {"prompt_in_pooling": False, "pooling": "weighted"},
        {"prompt_in_pooling": False, "document_prompt": "small "},
    ],
)
def test_each_query_is_trained_as_it_will_be_encoded(
    tiny_encoder: Path, tmp_path: Path, settings: dict[str, Any], activation_gb: float, micro_batch_tokens: int
) -> None:
    """Each batch has its queries' own prompts; its loss is that of texts encoded one by one."""
    model, curriculum = built(tiny_encoder, **settings), planned()
    section = SECTION.model_copy(update={"micro_batch_tokens": micro_batch_tokens, "activation_gb": activation_gb})
    trainer, found = batches(model, curriculum, tmp_path, section)
    document = settings.get("document_prompt", "")
    for step, batch in found:
        rows = [curriculum.row(step, position, 0) for position in range(4)]
        asked = [PromptedText(PLACE.replace("{instruction}", row.instruction or "find it"), row.query) for row in rows]
        ids = batch["query_input_ids"], batch["query_attention_mask"].bool()
        read = [row[valid].tolist() for row, valid in zip(*ids, strict=True)]
        assert read == [model.tokenizer(each.prompt + each.text)["input_ids"] for each in asked]
        columns = [[PromptedText(document, row.documents[column].text) for row in rows] for column in range(3)]
        vectors = [vectors_alone(model, texts) for texts in (asked, *columns)]
        logits = vectors[0] @ torch.cat(vectors[1:]).T / 0.05
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
        with torch.no_grad():
            torch.testing.assert_close(trainer.compute_loss(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_the_same_however_a_batch_is_split(tiny_encoder: Path) -> None:
    model = built(tiny_encoder, prompt_in_pooling=False)
    train.without_dropout(model)
    graded = tuples_with(INSTRUCTIONS)
    asked = [PromptedText(query_prompt(model.prompts, each.instruction), each.query) for each in graded]
    features = [tokenized(model, asked), model.preprocess([each.positive for each in graded])]
    assert len(set(features[0]["prompt_length"].tolist())) == 3
    whole, twice, small = (
        value_and_gradient(GradedLoss(model, encoding=encoding), features)
        for encoding in (Encoding(4096, 10**9), Encoding(4096, 0), Encoding(20, 10**6))
    )
    assert_same(twice, whole, 1e-5)
    assert_same(small, whole, 1e-5)
    # and that of texts which are encoded one by one
    model.zero_grad()
    columns = []
    for texts in (asked, [PromptedText("", each.positive) for each in graded]):
        alone = [model(model.preprocess([each.text], prompt=each.prompt or None)) for each in texts]
        columns.append(torch.cat([output["sentence_embedding"] for output in alone]))
    loss = torch.nn.functional.cross_entropy(columns[0] @ columns[1].T / 0.05, torch.arange(len(graded)))
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert_same((loss.detach(), gradient), whole, 1e-5)


@pytest.mark.parametrize("prompt_in_pooling", [True, False])
def test_one_instruction_for_all_trains_the_same_weights(
    tiny_encoder: Path, tmp_path: Path, prompt_in_pooling: bool
) -> None:
    weights = []
    for number, own in enumerate([(None,), ("find it",), ("find it", None)]):
        torch.manual_seed(0)
        model = built(tiny_encoder, prompt_in_pooling=prompt_in_pooling)
        train_model(model, planned(own), SECTION, tmp_path / str(number), seed=7)
        weights.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    torch.manual_seed(0)
    model = built(tiny_encoder, prompt_in_pooling=prompt_in_pooling)
    train_model(model, planned(), SECTION, tmp_path / "own", seed=7)
    own_weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert (weights[0] - own_weights).abs().max() > 1e-5


def test_the_frozen_cache_holds_each_query_with_its_instruction(tmp_path: Path) -> None:
    base = tiny_decoder()
    lora = LoraSection(rank=2, top_layers=1, dropout=0.0)
    losses = []
    for cache in (0.0, 1.0):
        torch.manual_seed(0)
        model = built(base, lora=lora, prompt_in_pooling=False, pooling="anchor")
        section = SECTION.model_copy(update={"frozen_cache_gb": cache})
        folder = tmp_path / str(cache)
        train_model(model, planned(), section, folder, seed=7)
        losses.append([json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()])
    assert (tmp_path / "1.0" / "frozen" / "states.npy").is_file()
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    rows = {tuple(row) for row in token_rows(model, planned())}
    for graded in tuples_with(INSTRUCTIONS):
        text = query_prompt(model.prompts, graded.instruction) + graded.query
        assert tuple(model.tokenizer(text)["input_ids"]) in rows


# Encoders


@pytest.mark.parametrize("prompt_in_pooling", [True, False])
def test_encoders_read_the_own_instruction(tiny_encoder: Path, tmp_path: Path, prompt_in_pooling: bool) -> None:
    """Kept vectors too: one text under two instructions has two vectors."""
    model = built(tiny_encoder, prompt_in_pooling=prompt_in_pooling)
    asked = [replace(graded, query="where is the cat") for graded in tuples_with(INSTRUCTIONS)]
    texts = [PromptedText(query_prompt(model.prompts, each.instruction), each.query) for each in asked]
    expected = vectors_alone(model, texts).numpy()
    assert len(np.unique(expected.round(4), axis=0)) == len(INSTRUCTIONS)
    np.testing.assert_allclose(embed_queries(ModelEncoder(model, "x"), asked), expected, atol=1e-6)
    kept = CachedEncoder(lambda: model, "m", tmp_path / "kept.bin", "x", model.prompts)
    np.testing.assert_allclose(embed_queries(kept, asked), expected, atol=ROUNDED)
    for instruction in INSTRUCTIONS:
        found = kept.unkept(["where is the cat"], "query", instruction)
        prompt = query_prompt(model.prompts, instruction)
        np.testing.assert_allclose(found[0], model.encode("where is the cat", prompt=prompt), atol=1e-6)

    def never() -> SentenceTransformer:
        raise AssertionError("loaded")

    again = CachedEncoder(never, "m", tmp_path / "kept.bin", "x", model.prompts)
    np.testing.assert_allclose(embed_queries(again, asked), expected, atol=ROUNDED)
    plain = CachedEncoder(lambda: model, "m", tmp_path / "plain.bin", "x", {"query": "the "})
    np.testing.assert_array_equal(embed_queries(plain, asked), plain([each.query for each in asked], "query"))


def test_margins_and_guides_and_neighbours_read_instructions(tiny_encoder: Path) -> None:
    model = built(tiny_encoder, prompt_in_pooling=False)
    graded = tuples_with(INSTRUCTIONS)
    queries = vectors_alone(model, [PromptedText(query_prompt(model.prompts, g.instruction), g.query) for g in graded])
    positives = vectors_alone(model, [PromptedText("", g.positive) for g in graded])
    negatives = vectors_alone(model, [PromptedText("", graded[0].negatives[1].text)])
    phase = PhaseSection(name="hard", grades=[4], steps=1)
    expected = (queries * (positives - negatives)).sum(dim=1).mean()
    assert margin_on(model, graded, phase) == pytest.approx(float(expected), abs=1e-6)

    embed = ModelEncoder(model, "x")
    mean = queries + positives
    rounded = np.rint(2048 * (mean / mean.norm(dim=1, keepdim=True)).numpy())
    assert np.abs(vectors_of(graded, embed) - rounded).max() <= 1
    cosines = (queries @ positives.T).numpy()
    nearer = Guide(embed, 0.0).nearer(
        [g.query for g in graded], [[g.positive] for g in graded], [g.instruction for g in graded]
    )
    assert nearer == [{(j, 0) for j in range(12) if j != i and cosines[i, j] > cosines[i, i]} for i in range(12)]


def test_an_instruction_that_leaves_no_room_is_named(tiny_encoder: Path) -> None:
    model = built(tiny_encoder, max_tokens=12)
    check_instructions(model, ["find the cat"], None)
    with pytest.raises(ConfigError, match=r"model.max_tokens: found 12, but the prompt 'the find.* alone takes 14"):
        check_instructions(model, ["cat", "find the big dog in the garden near the house"], None)
    with pytest.raises(
        ConfigError, match=r"training.max_tokens: found 8, but the prompt 'the find the cat big dog eat '"
    ):
        check_instructions(model, ["find the cat big dog"], 8)


# Bases with prompts of their own


def with_prompts(base: Path, folder: Path, **prompts: str) -> Path:
    SentenceTransformer(str(base), prompts=prompts).save(str(folder))
    return folder


@pytest.mark.parametrize(
    ("own", "plain", "template"),
    [
        ("small ", "the ", "Instruct: {instruction}\nQuery: "),  # only named so: no place for an instruction
        ("small {instruction} ", "the ", "small {instruction} "),
    ],
)
def test_a_prompt_of_the_base_named_instruction(
    tiny_encoder: Path, run_toml: Path, tmp_path: Path, own: str, plain: str, template: str
) -> None:
    base = with_prompts(tiny_encoder, tmp_path / "base", query=plain, instruction=own)
    model = build_model(ModelSection(base=str(base)))
    is_template = own == template
    assert query_prompt(model.prompts, "find it") == (own.replace("{instruction}", "find it") if is_template else plain)
    config = load_config(run_toml, [f"model.base={base}"])
    _read_instructions(config, model, tuples_with(INSTRUCTIONS))
    assert query_prompt(model.prompts, "find it") == template.replace("{instruction}", "find it")
    assert query_prompt(model.prompts, None) == plain
    given = build_model(ModelSection(base=str(base), query_prompt="eat "))
    assert query_prompt(given.prompts, "find it") == "eat "
    assert given.prompts.get("instruction") == (None if is_template else own)
