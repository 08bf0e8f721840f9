"""Saved models from the command line: looked over, tampered with, explained, written in other forms."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from transformers import GPTNeoConfig, GPTNeoModel

from multigrain.cli.main import main
from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from multigrain.model.load import load_model
from tests.model.decoder import tiny_decoder, tokenizer


@pytest.fixture
def saved(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A model with anchor pooling and an instruction."""
    section = ModelSection(base=str(tiny_encoder), pooling="anchor", max_tokens=32, instruction="find the old tree")
    build_model(section).save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_good_model_is_found_good(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", saved)
    assert code == 0
    assert "6 of 6 checks passed" in out
    assert "AnchorTransformer -> AnchorPooling -> Normalize: 32 dimensions, at most 32 tokens" in out
    assert "attention       bidirectional, as its hidden states show" in out
    assert r"encode_query puts 'Instruct: find the old tree\nQuery: ' before a text" in out
    assert "code            as in this version" in out


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_good_decoder(bidirectional: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = ModelSection(base=str(tiny_decoder()), pooling="anchor", bidirectional=bidirectional, max_tokens=32)
    build_model(section).save_pretrained(str(tmp_path / "saved"))
    code, out, _ = run(capsys, "check", tmp_path / "saved")
    assert code == 0
    assert (
        "causal, as its hidden states show; anchor pooling then favours the first tokens" in out
    ) is not bidirectional
    assert "every text ends in </s>, even if truncated" in out


def test_a_decoder_that_is_not_what_its_configuration_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GPT-Neo does not care for is_causal."""
    size = {"vocab_size": 70, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}
    base = GPTNeoModel(GPTNeoConfig(**size, max_position_embeddings=64))
    base.config.is_causal = False
    base.save_pretrained(tmp_path / "base")
    tokenizer("eos", pad=True).save_pretrained(tmp_path / "base")
    SentenceTransformer(str(tmp_path / "base")).save_pretrained(str(tmp_path / "saved"))
    code, out, _ = run(capsys, "check", tmp_path / "saved")
    assert code == 2
    assert "BAD   attention       causal, though its configuration says bidirectional" in out
    with pytest.raises(ConfigError, match="the tokens of a GPTNeoModel cannot be made to see later ones"):
        build_model(ModelSection(base=str(tmp_path / "base"), bidirectional=True))


def test_an_eos_token_that_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "saved"
    build_model(ModelSection(base=str(tiny_decoder()), pooling="last", max_tokens=32)).save_pretrained(str(saved))
    shutil.copy(tiny_decoder() / "tokenizer.json", saved)
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   EOS             not every text ends in </s>" in out


def test_prompts_that_the_hosts_calls_forget(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The host gives each model an empty "document", and never comes to "passage"."""
    edit(saved / "config_sentence_transformers.json", prompts={"passage": "the ", "query": "", "document": ""})
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   document prompt encode_document does not put 'the ' before a text" in out


def test_models_whose_vectors_are_useless(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(saved / "config_sentence_transformers.json", prompts={"query": "the old " * 30, "document": ""})
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   query prompt    its 62 tokens fill the 32 tokens that the model reads" in out
    (saved / "tokenizer.json").unlink()  # the library makes one of special tokens alone
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "the same for different texts; check that the tokenizer fits" in out


def test_others_may_read_the_weights_too(saved: Path) -> None:
    modes = {path.stat().st_mode for path in saved.iterdir() if path.is_file()}
    assert len(modes) == 1


TAMPERED: list[tuple[str, dict[str, Any], str]] = [
    ("1_AnchorPooling/config.json", {"form": "cubic"}, "form: found 'cubic'; wanted log or linear"),
    ("1_AnchorPooling/config.json", {"layers": [7]}, "there is no attention layer 7: BertModel has 2"),
    ("1_AnchorPooling/config.json", {"layers": ["last"]}, "layers: found ['last']; wanted a list of numbers"),
    (
        "1_AnchorPooling/config.json",
        {"embedding_dimension": 7},
        "embedding_dimension: found 7; the model before it has",
    ),
    ("1_AnchorPooling/config.json", {"layers": 5}, "layers: found 5; wanted a list of numbers"),
    ("1_AnchorPooling/config.json", {"embedding_dimension": "32"}, "embedding_dimension: found '32'"),
    ("1_AnchorPooling/config.json", {"exclude_first": "false"}, "exclude_first: found 'false'; wanted true or false"),
    ("1_AnchorPooling/config.json", {"include_prompt": 1}, "include_prompt: found 1; wanted true or false"),
    ("1_AnchorPooling/config.json", {"sharpness": 3}, "sharpness"),
    ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length: found 0; wanted a number above 0"),
    ("sentence_bert_config.json", {"max_seq_length": 1000}, "found 1000; the model has positions for 64 tokens"),
    ("config.json", {"num_hidden_layers": 1}, "weights in its files have no place in the model"),
    (
        "sentence_bert_config.json",
        {"bidirectional": "yes"},
        "bidirectional: found 'yes'; wanted true, false or a number",
    ),
    ("config.json", {"num_hidden_layers": 4}, "of the model's weights are missing from its files"),
    ("config.json", {"hidden_size": 48}, "cannot be loaded"),
]


@pytest.mark.parametrize(("file", "values", "message"), TAMPERED)
@pytest.mark.parametrize("verb", ["check", "explain"])
def test_tampered_models(
    saved: Path, capsys: pytest.CaptureFixture[str], file: str, values: dict[str, Any], message: str, verb: str
) -> None:
    edit(saved / file, **values)
    code, out, err = run(capsys, verb, saved, *(["a text"] if verb == "explain" else []))
    assert (code, out) == (2, "")
    assert message in err


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("check", "merge", "export-onnx"):
        more = ["--out", tmp_path / "out"] if verb == "merge" else []
        code, _, err = run(capsys, verb, tmp_path, *more)
        assert code == 2
        assert "no modules.json" in err


def test_a_folder_without_the_code_that_it_needs(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "pooling.py").write_text("import os; os.system('echo caught > /tmp/multigrain_caught')")
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   code            pooling.py differs from this version of multigrain; read it" in out
    assert not Path("/tmp/multigrain_caught").exists()
    (saved / "pooling.py").unlink()
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   code            no pooling.py; without it, sentence-transformers cannot load the folder" in out


def test_what_breaks_while_looking_is_a_finding(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "onnx").mkdir()
    (saved / "onnx" / "model.onnx").write_bytes(b"no graph")
    code, out, _ = run(capsys, "check", saved)
    assert code == 2
    assert "BAD   ONNX " in out
    code, _, err = run(capsys, "check", saved, "--set", "seed=3")
    assert code == 2
    assert "--set: is only for runs" in err


def test_explain_as_json(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", saved, "The cat sleeps.", "--as", "query", "--form", "json")
    assert code == 0
    found = json.loads(out)
    read = "Instruct: find the old tree\nQuery: The cat sleeps."
    assert found["given"] == read
    assert found["unread"] == ""
    assert found["is_own_pooling"] is True
    assert sum(token["weight"] for token in found["tokens"]) == pytest.approx(1, abs=1e-4)
    kinds = [token["kind"] for token in found["tokens"]]
    assert kinds == ["special", *["prompt"] * 8, *["text"] * 4, "special"]
    assert [read[token["start"] : token["end"]] for token in found["tokens"][9:13]] == ["The", "cat", "sleeps", "."]
    model: Any = load_model(saved)
    features = model[0](model.preprocess(["The cat sleeps."], prompt="Instruct: find the old tree\nQuery: "))
    expected = model[1].weights(features)[0].tolist()
    assert [token["weight"] for token in found["tokens"]] == pytest.approx(expected, abs=1e-6)


def test_explain_on_a_terminal(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run(capsys, "explain", saved, "the cat " * 40)
    assert "\x1b[" not in out
    assert out.startswith("[CLS]the cat the cat")
    assert "not read, because the text exceeds the model's length: the cat" in out
    assert len(out.splitlines()) < 40
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, coloured, _ = run(capsys, "explain", saved, "the cat")
    assert "\x1b[" in coloured


def test_explain_as_a_page(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    arguments = ["explain", saved, "<script>alert(1)</script> & a cat", "--form", "html", "--out", page]
    assert run(capsys, *arguments) == (0, f"{page}: written\n", "")
    text = page.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)  # nothing external
    assert len(re.findall(r'<span class="text"', text)) == len(re.findall("<tr><td>", text)) - 2  # [CLS] and [SEP]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "page.html exists; give another name, or --force" in err
    assert run(capsys, *arguments, "--force")[0] == 0
    code, _, err = run(capsys, *arguments[:-1], tmp_path / "absent" / "page.html")
    assert code == 2
    assert "does not exist" in err and not (tmp_path / "absent").exists()


def test_explain_a_base_that_pools_otherwise(tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "explain", tiny_encoder, "the cat", "--form", "json")
    assert code == 0
    assert json.loads(out)["is_own_pooling"] is False
    code, _, err = run(capsys, "explain", "/nowhere", "the cat")
    assert code == 2
    assert "MODEL: /nowhere: no such folder" in err


def test_a_character_of_several_tokens_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A real byte-level tokenizer."""
    _, out, _ = run(capsys, "explain", "embedded-llm", "Good 😀!")
    assert out.splitlines()[0] == "Good 😀!<|im_end|>"


def test_a_model_is_never_replaced_by_its_own_graph(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.onnx", "prompts.json"):  # as other tools lay them there
        (saved / name).touch()
    code, _, err = run(capsys, "export-onnx", saved, "--out", saved, "--force")
    assert code == 2
    assert "--force replaces only a folder with prompts.json" in err
    assert (saved / "model.safetensors").is_file()


def test_the_folder_one_is_in_is_not_replaced(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    code, _, err = run(capsys, "merge", saved, "--out", ".", "--force")
    assert code == 2
    assert "contains the current folder" in err


def test_explain_a_model_that_reads_few_tokens(tiny_encoder: Path, tmp_path: Path, capsys: Any) -> None:
    model = SentenceTransformer(str(tiny_encoder))
    model.max_seq_length = 5
    model.save_pretrained(str(tmp_path / "short"))
    code, out, _ = run(capsys, "explain", tmp_path / "short", "the cat sleeps near the tree", "--form", "json")
    assert code == 0
    assert len(json.loads(out)["tokens"]) == 5


@pytest.mark.parametrize("verb", ["merge", "export-onnx"])
def test_what_is_there_is_not_written_over(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("five years")
    code, _, err = run(capsys, verb, saved, "--out", tmp_path / "mine")
    assert code == 2
    assert "mine exists; give another name, or --force" in err
    code, _, err = run(capsys, verb, saved, "--out", tmp_path / "mine", "--force")
    assert code == 2
    assert "--force replaces only a folder with " in err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "five years"
    code, _, err = run(capsys, verb, saved, "--out", tmp_path / "mine" / "thesis.txt", "--force")
    assert code == 2
    assert "is a file; give the name of a folder" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.anchor.layers=[40]", "anchor.layers: there is no attention layer 40; the base has 2"),
        ("model.lora.top_layers=99", "lora.top_layers: found 99; the base has 2 layers"),
        (f"model.instruction={'find ' * 40}", "max_tokens: found 32, but the prompt 'Instruct: find"),
    ],
)
def test_what_the_base_cannot_have_is_told_before_anything_long(
    run_toml: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    code, _, err = run(capsys, "check", run_toml, "--set", setting)
    assert code == 2
    assert message in err


def test_a_tokenizer_that_pads_every_text_is_not_taken_for_a_long_prompt(run_toml: Path, capsys: Any) -> None:
    """That of all-MiniLM-L6-v2 pads to 128."""
    settings = ["--set", "model.base=embedded", "--set", "model.max_tokens=64", "--set", "model.instruction=find it"]
    assert run(capsys, "check", run_toml, *settings)[0] == 0


@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        (["export.onnx=true"], "onnxruntime", "onnx"),
        (['model.lora.quantize="4bit"'], "bitsandbytes", "qlora"),
        (["model.base=embedded-llm"], "gguf", "embedded"),
        (['training.report_to=["tensorboard"]'], "tensorboard", "tensorboard"),
    ],
)
def test_missing_packages_are_told_before_anything_long(
    run_toml: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    package: str,
    extra: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    code, _, err = run(capsys, "check", run_toml, *(word for setting in settings for word in ("--set", setting)))
    assert code == 2
    assert f'{package}: not installed. Run: pip install "multigrain[{extra}]"' in err


def test_merge_without_an_adapter(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "merge", saved, "--out", tmp_path / "merged")
    assert code == 2
    assert "this model has no adapter to merge; it is already complete" in err
    assert not (tmp_path / "merged").exists()
