"""What is done otherwise than asked for is told by the files of a base."""

import json
from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer.modules import (
    Dense,
)

from multigrain.config import ModelSection, load_config
from multigrain.model.load import load_base
from multigrain.model.precheck import notes
from multigrain.pipeline.check import check
from tests.model.saved_models import edit, with_modules


@pytest.mark.parametrize("form", ["compact", "legacy"])
def test_a_base_that_pools_otherwise_is_told(form: str, tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", mode="cls")
    if form == "legacy":
        names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        modes = {f"pooling_mode_{name}": name == "cls_token" for name in names}
        (base / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    told = check(load_config(run_toml, [f"model.base={base}"]))
    assert 'the base pools by cls; "anchor" replaces it' in told
    assert '(model.pooling = "cls" keeps them)' in told
    assert notes(ModelSection(base=str(base), pooling="cls", max_tokens=32)) == []
    assert notes(ModelSection(base=str(with_modules(tiny_encoder, tmp_path / "mean")), max_tokens=32)) == []


def test_a_saved_length_beyond_the_positions(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base")
    edit(base / "sentence_bert_config.json", max_seq_length=512)
    edit(base / "tokenizer_config.json", model_max_length=16)  # the saved length counts instead
    assert load_base(str(base), 600).max_seq_length == 64
    [note] = notes(ModelSection(base=str(base), max_tokens=100))
    assert note == f"model.max_tokens: found 100; {base} reads at most 64 tokens of a text"
    told = check(load_config(run_toml, [f"grading.judge_model={base}", "grading.judge_max_tokens=600"]))
    assert f"grading.judge_max_tokens: found 600; {base} reads at most 64 tokens" in told


def test_positions_that_are_counted_from_each_other_set_no_length(tiny_encoder: Path, tmp_path: Path) -> None:
    """T5 and its kin have a table of distances; whatever else their settings say."""
    folder = tmp_path / "alibi"
    with_modules(tiny_encoder, folder)
    edit(folder / "sentence_bert_config.json", max_seq_length=512)
    edit(folder / "config.json", model_type="llama")
    assert "reads" not in " ".join(notes(ModelSection(base=str(folder), max_tokens=100)))


def test_vectors_are_cut_only_by_a_length_below_theirs(tiny_encoder: Path, tmp_path: Path) -> None:
    for place, (length, modules) in enumerate([(32, ()), (100, ()), (16, (Dense(32, 16),))]):
        base = with_modules(tiny_encoder, tmp_path / str(place), *modules, truncate_dim=length)
        assert not any("vectors are truncated" in note for note in notes(ModelSection(base=str(base))))
