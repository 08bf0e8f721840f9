"""Masked next token prediction on a tiny decoder with random weights."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoModel, TrainerCallback

from multigrain.config import AdaptSection, ModelSection
from multigrain.errors import ConfigError, RunError
from multigrain.model.build import sees_ahead
from multigrain.model.language_model import LanguageModel, load_language_model, require_saved_attention
from multigrain.training import adaptation
from multigrain.training.adaptation import MaskedNextToken, adapt
from multigrain.training.masked_tokens import IGNORED
from tests.conftest import small_pairs
from tests.model.decoder import tiny_decoder

SECTION = AdaptSection(tokens=1200, batch_tokens=64, max_tokens=16, mask_token="the", learning_rate=3e-2, rank=4)


def language_model(bidirectional: bool | int = True) -> LanguageModel:
    return load_language_model(ModelSection(base=str(tiny_decoder("both", head=True)), bidirectional=bidirectional))


def texts() -> list[str]:
    return [text for pair in small_pairs(40) for text in (pair["query"], pair["positive"])]


def backbone(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.causal.base_model.state_dict().items()}


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[1, 10, 11, 12, 2], [1, 13, 2, 3, 3]])
    labels = torch.tensor([[IGNORED, IGNORED, 14, 15, IGNORED], [IGNORED, 16, IGNORED, IGNORED, IGNORED]])
    return {"input_ids": ids, "attention_mask": (ids != 3).long(), "labels": labels}


def test_a_masked_token_is_predicted_from_the_state_before_it() -> None:
    model, given = language_model().causal.eval(), batch()
    hidden = model.base_model(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    words = log_softmax(hidden @ model.lm_head.weight.T, dim=-1)
    expected = -(words[0, 1, 14] + words[0, 2, 15] + words[1, 0, 16]) / 3
    torch.testing.assert_close(MaskedNextToken(model, SECTION)(**given)["loss"], expected)


def test_the_loss_is_that_of_a_language_model_on_the_same_labels() -> None:
    """Its own loss shifts the labels by one place, too: another way to the same figure."""
    model, given = language_model().causal.eval(), batch()
    torch.testing.assert_close(MaskedNextToken(model, SECTION)(**given)["loss"], model(**given).loss)


def test_a_batch_without_masks_costs_nothing() -> None:
    model, given = language_model().causal, batch()
    given["labels"] = torch.full_like(given["labels"], IGNORED)
    loss = MaskedNextToken(model, SECTION)(**given)["loss"]
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("bidirectional", [True, 2])
def test_adapting_lowers_the_held_out_loss_and_is_merged(bidirectional: bool | int, tmp_path: Path) -> None:
    model = language_model(bidirectional)
    before, head = backbone(model), model.causal.lm_head.weight.clone()
    found = adapt(model, texts(), SECTION, tmp_path / "adaptation", seed=7)
    assert found.after < found.before - 0.5
    assert found.tokens >= SECTION.tokens
    after = backbone(model)
    assert after.keys() == before.keys()  # no module of the adapter is left
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert torch.equal(model.causal.lm_head.weight, head)
    assert sees_ahead(model.embedding[0].model)
    log = [json.loads(line) for line in (tmp_path / "adaptation" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, found.steps + 1))
    assert next(line["held_out_loss"] for line in log if "held_out_loss" in line) == found.before


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_the_saved_base_has_the_precision_of_the_given_one_and_the_loss_that_is_told(
    tmp_path: Path, precision: torch.dtype
) -> None:
    base = str(tiny_decoder("both", head=True, dtype=precision))
    model = load_language_model(ModelSection(base=base, bidirectional=True))
    found = adapt(model, texts(), SECTION, tmp_path, seed=7)
    assert found.after < found.before - 0.5
    assert {weight.dtype for weight in backbone(model).values()} == {precision}
    model.embedding.save_pretrained(str(tmp_path / "model"))
    again = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert sees_ahead(again)
    require_saved_attention(tmp_path / "model", bidirectional=True)
    head, losses = load_language_model(ModelSection(base=base, bidirectional=True)).causal.lm_head, []
    _, held_out = adaptation._batches(model.embedding.tokenizer, texts(), SECTION, seed=7)
    for given in (held_out[place] for place in range(len(held_out))):
        states = again(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        losses.append(cross_entropy(head(states[:, :-1]).float().flatten(0, 1), given["labels"][:, 1:].flatten()))
    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    assert found.after == pytest.approx(float(torch.stack(losses).mean()), rel=tolerance)


def test_a_base_in_float16_learns_in_float32(tmp_path: Path) -> None:
    """Without loss scaling, float16 would round small gradients of its states to 0."""
    base = str(tiny_decoder("both", head=True, dtype=torch.float16))
    model = load_language_model(ModelSection(base=base, bidirectional=True))
    seen = []
    model.causal.base_model.layers[0].register_forward_hook(lambda _, __, states: seen.append(states.dtype))
    adapt(model, texts(), SECTION.model_copy(update={"tokens": 60}), tmp_path, seed=7)
    assert set(seen[:-1]) == {torch.float32} and seen[-1] == torch.float16


def test_a_saved_base_that_looks_back_only_is_told() -> None:
    require_saved_attention(tiny_decoder(), bidirectional=2)
    with pytest.raises(RunError, match="do not attend to later ones .* Set model.bidirectional to .* layers, 3"):
        require_saved_attention(tiny_decoder(), bidirectional=True)


def test_a_decoder_in_a_folder_of_its_own_within_its_model(tmp_path: Path) -> None:
    """As older releases of sentence-transformers saved it."""
    SentenceTransformer(str(tiny_decoder("both", head=True))).save_pretrained(str(tmp_path))
    listing = tmp_path / "modules.json"
    modules = json.loads(listing.read_text())
    shutil.copytree(tiny_decoder("both", head=True), tmp_path / "0_Transformer")
    listing.write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    model = load_language_model(ModelSection(base=str(tmp_path), bidirectional=True))
    assert torch.equal(model.causal.lm_head.weight, language_model().causal.lm_head.weight)


class Kill(TrainerCallback):  # type: ignore[misc]
    """Send a signal to this process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_adaptation_ends_with_the_same_weights_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = language_model()
    found = adapt(whole, texts(), SECTION, tmp_path / "whole", seed=7)
    trainer = adaptation._trainer

    def killed(*given: Any) -> Any:
        made = trainer(*given)
        made.add_callback(Kill(step=found.steps // 2 + 1))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_trainer", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt(language_model(), texts(), SECTION, tmp_path / "cut", seed=7)
    with (tmp_path / "cut" / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # as a killed process leaves it
    resumed = language_model()
    assert adapt(resumed, texts(), SECTION, tmp_path / "cut", seed=7) == found
    for name, weight in backbone(whole).items():
        assert torch.equal(backbone(resumed)[name], weight), name
    assert (tmp_path / "cut" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_what_cannot_be_adapted_is_told(tmp_path: Path, tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="is not a decoder: .* remove the section"):
        load_language_model(ModelSection(base=str(tiny_encoder), bidirectional=True))
    with pytest.raises(ConfigError, match="no language-model head"):
        load_language_model(ModelSection(base=str(tiny_decoder("both")), bidirectional=True))
    with pytest.raises(ConfigError, match="into 2 tokens; wanted one token"):
        adapt(language_model(), texts(), SECTION.model_copy(update={"mask_token": "old cat"}), tmp_path, seed=7)
    with pytest.raises(RunError, match="too few or too short"):
        adapt(language_model(), ["", "cat"], SECTION, tmp_path, seed=7)


def test_a_loss_that_is_not_finite_ends_the_adaptation(tmp_path: Path) -> None:
    model = language_model()
    with torch.no_grad():
        model.causal.lm_head.weight.fill_(torch.inf)
    with pytest.raises(RunError, match="not finite at step .* Lower adapt.learning_rate"):
        adapt(model, texts(), SECTION, tmp_path, seed=7)
    assert not list(tmp_path.glob("checkpoints/*"))
