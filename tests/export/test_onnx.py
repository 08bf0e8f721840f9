"""Graphs, read by plain onnxruntime and tokenizers, against the models that they were made of."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession  # type: ignore[import-untyped]
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from multigrain.config import LoraSection, ModelSection
from multigrain.errors import RunError
from multigrain.export import onnx as exporter
from multigrain.export import onnx_graph
from multigrain.export.onnx import export_onnx
from multigrain.model.build import build_model
from multigrain.model.roles import Vectors
from tests.conftest import WORDS
from tests.model.decoder import tiny_decoder
from tests.model.saved_models import shallow, with_modules

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_embed.py"
TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", "", "cat " * 100]
SENTENCES = [
    "A man with a hard hat is dancing.",
    "Fish.",
    "Tokens of a causal model see those before them; the first takes half of the attention, if nobody trains it away.",
    "Stocks fell by 3.5 % on Monday, after the bank had said on its web site that it expects less than last year.",
]


def embed(folder: Path, texts: list[str], graph: str = "model.onnx") -> Vectors:
    """As a user does it."""
    session: Any = InferenceSession(folder / graph, providers=["CPUExecutionProvider"])
    encodings = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    ids, mask = [e.ids for e in encodings], [e.attention_mask for e in encodings]
    vectors: Vectors = session.run(None, {"input_ids": np.array(ids), "attention_mask": np.array(mask)})[0]
    return vectors


def assert_same(folder: Path, model: SentenceTransformer, atol: float = 1e-5) -> None:
    """One by one, and padded."""
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(np.concatenate([embed(folder, [text]) for text in TEXTS]), expected, atol=atol)
    np.testing.assert_allclose(embed(folder, TEXTS), expected, atol=atol)


@pytest.fixture(scope="module")
def shallow_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shallow(tiny_encoder, tmp_path_factory.mktemp("shallow") / "encoder")


@pytest.fixture(scope="module")
def tiny(shallow_encoder: Path) -> SentenceTransformer:
    return build_model(
        ModelSection(base=str(shallow_encoder), pooling="anchor", max_tokens=16, instruction="Find the house")
    )


@dataclass(frozen=True)
class Exported:
    """The folder, and what torch made of the model: the dear part, which a test may save in another way."""

    folder: Path
    program: Any


@pytest.fixture(scope="module")
def made(tiny: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tiny encoder under anchor pooling, both graphs."""
    folder = tmp_path_factory.mktemp("onnx") / "graphs"
    programs: list[Any] = []
    export = torch.onnx.export

    def kept(*arguments: Any, **options: Any) -> Any:
        programs.append(export(*arguments, **options))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", kept)
        export_onnx(tiny, folder, int8=True)
    return Exported(folder, *programs)


@pytest.fixture(scope="module")
def exported(made: Exported) -> Path:
    return made.folder


@pytest.fixture
def in_silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """In the test, no exporter says a word, or sets up a log of its own."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    assert capfd.readouterr() == ("", "  writing the graph (a minute for a decoder of 30 layers) ...\n")
    assert (logging.root.handlers, logging.root.level) == (handlers, level)


def test_the_folder_holds_what_others_need(exported: Path) -> None:
    names = sorted(path.name for path in exported.iterdir())
    assert names == ["model.onnx", "model_int8.onnx", "prompts.json", "tokenizer.json"]
    assert not list(exported.parent.glob("*.part"))
    prompts = json.loads((exported / "prompts.json").read_text())
    assert prompts == {"query": "Instruct: Find the house\nQuery: ", "document": ""}
    for graph in ("model.onnx", "model_int8.onnx"):
        session: Any = InferenceSession(exported / graph)
        inputs = [(entry.name, entry.type, entry.shape) for entry in session.get_inputs()]
        assert inputs == [(name, "tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")]
        assert [(entry.name, entry.shape) for entry in session.get_outputs()] == [("sentence_embedding", ["batch", 32])]


@settings(max_examples=25)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), min_size=1, max_size=6))
def test_batches_of_any_shape(exported: Path, tiny: SentenceTransformer, texts: list[str]) -> None:
    """Sizes that were kept as constants, a mask left away, or texts cut elsewhere would show."""
    expected = tiny.encode(texts)
    np.testing.assert_allclose(embed(exported, texts), expected, atol=1e-5)
    assert (embed(exported, texts, "model_int8.onnx") * expected).sum(1).min() > 0.99


@pytest.mark.parametrize("width", [1, 16, 64])
def test_batches_that_the_tokenizer_would_not_make(exported: Path, tiny: SentenceTransformer, width: int) -> None:
    """A single token; the model's maximum of positions; padding that all texts have; none at all."""
    tokens = torch.arange(5, 5 + width).expand(2, width) % 50
    session: Any = InferenceSession(exported / "model.onnx")
    for valid in (width, max(1, width - 3)):
        mask = (torch.arange(width) < valid).long().expand(2, width)
        with torch.no_grad():
            expected = tiny.eval()({"input_ids": tokens, "attention_mask": mask})["sentence_embedding"]
        found = session.run(None, {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.usefixtures("in_silence")
def test_the_hosts_poolings_in_half_precision_whose_vectors_are_cut(shallow_encoder: Path, tmp_path: Path) -> None:
    """All of them beside each other, so that each is seen; the last one to its half."""
    modes = ("cls", "mean", "weightedmean", "lasttoken")
    base = with_modules(shallow_encoder, tmp_path / "base", mode=modes)
    model = build_model(ModelSection(base=str(base), max_tokens=16)).half()
    assert cast(Any, model[1]).pooling_mode == modes
    model.truncate_dim = 112
    export_onnx(model, tmp_path / "onnx")
    assert model.dtype == torch.half
    assert embed(tmp_path / "onnx", TEXTS).shape == (len(TEXTS), 112)
    assert_same(tmp_path / "onnx", model.float(), atol=5e-6)  # each is half of the vector


@pytest.mark.usefixtures("in_silence")
def test_a_causal_decoder_that_is_padded_on_the_left(tmp_path: Path) -> None:
    """With grouped heads and rotated positions; every text ends in EOS, also one that is cut."""
    base = str(shallow(tiny_decoder("bos", "left"), tmp_path / "decoder"))
    model = build_model(ModelSection(base=base, pooling="anchor", max_tokens=16))
    export_onnx(model, tmp_path / "onnx")
    assert_same(tmp_path / "onnx", model)


def test_the_adapter_of_a_bidirectional_decoder_is_merged_and_the_model_stays_as_it_is(tmp_path: Path) -> None:
    base, lora = shallow(tiny_decoder(), tmp_path / "decoder"), LoraSection(rank=4, dropout=0.5)
    model = build_model(ModelSection(base=str(base), pooling="anchor", bidirectional=True, lora=lora, max_tokens=16))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    before, backbone = model.encode(TEXTS), cast(Any, model[0]).model
    model.train()
    backbone.norm.eval()
    modes = [module.training for module in model.modules()]
    tokenizer, attention = model.tokenizer.backend_tokenizer.to_str(), backbone.config._attn_implementation
    export_onnx(model, tmp_path / "onnx")
    assert [module.training for module in model.modules()] == modes
    assert model.tokenizer.backend_tokenizer.to_str() == tokenizer
    assert backbone.config._attn_implementation == attention
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    assert_same(tmp_path / "onnx", model)


@pytest.mark.usefixtures("in_silence")
def test_a_large_graph_keeps_its_weights_beside_it_and_can_be_moved(
    made: Exported,
    tiny: SentenceTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_graph, "LARGE", 0)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: made.program)
    export_onnx(tiny, tmp_path / "onnx", int8=True)
    folder = (tmp_path / "onnx").rename(tmp_path / "moved")
    names = {path.name for path in folder.glob("model*")}
    assert names == {"model.onnx", "model.onnx.data", "model_int8.onnx", "model_int8.onnx.data"}
    assert (folder / "model.onnx.data").stat().st_size > 3 * sum(weight.numel() for weight in tiny.parameters())
    assert_same(folder, tiny)
    assert (embed(folder, TEXTS, "model_int8.onnx") * tiny.encode(TEXTS)).sum(1).min() > 0.99


def test_the_embedded_encoder_and_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(ModelSection(pooling="anchor", instruction="Find the opposite"))
    folder = tmp_path / "onnx"
    monkeypatch.setattr(exporter, "CLOSE_INT8", 2)
    export_onnx(model, folder, int8=True)
    assert "model_int8.onnx: its vectors have a cosine of 0.99" in capsys.readouterr().err
    texts = [*SENTENCES, " ".join(SENTENCES * 5)]  # the last is cut
    expected = model.encode(texts)
    np.testing.assert_allclose(embed(folder, texts), expected, atol=1e-5)
    small = embed(folder, texts, "model_int8.onnx")
    assert (small * expected).sum(1).min() > 0.995
    assert (folder / "model_int8.onnx").stat().st_size < 0.3 * (folder / "model.onnx").stat().st_size
    # Whatever stands beside a text, its vector is the same.
    np.testing.assert_allclose(embed(folder, texts[:1], "model_int8.onnx")[0], small[0], atol=1e-5)

    blocker = "import sys\nfor name in ('torch', 'transformers', 'multigrain'):\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocker)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(EXAMPLE), str(folder), *SENTENCES]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    query, documents = model.encode_query(SENTENCES[:1]), model.encode_document(SENTENCES[1:])
    shown = [f"{cosine:.3f}  {text}" for cosine, text in zip((documents @ query.T)[:, 0], SENTENCES[1:], strict=True)]
    assert result.stdout.splitlines() == shown


def test_what_cannot_be_exported(
    tiny: SentenceTransformer, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error says what to do, and the folder that was there stays whole."""
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(exporter, "write_graph", lambda model, path: path.write_bytes(before["model.onnx"]))
        patch.setattr(exporter, "CLOSE", 1e-12)
        with pytest.raises(RunError, match=r"differ from the model's by .*e-\d\d; wanted 1e-12.* Please report this"):
            export_onnx(tiny, exported)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before

    def refuse(*arguments: Any, **options: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("pages\nof advice") from ValueError("no such operator\nat all")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", refuse)
        with pytest.raises(RunError, match="a BertModel cannot be written as an ONNX graph: no such operator. Please"):
            export_onnx(tiny, tmp_path / "onnx")
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny.tokenizer), "backend_tokenizer", None)
        with pytest.raises(RunError, match=r"has no tokenizer.json; ONNX export needs a fast tokenizer"):
            export_onnx(tiny, tmp_path / "onnx")
    with monkeypatch.context() as patch:
        patch.setattr("multigrain.extras.importlib.util.find_spec", lambda name: name != "onnxscript" or None)
        with pytest.raises(RunError, match=r'onnxscript: not installed. Run: pip install "multigrain\[onnx\]"'):
            export_onnx(tiny, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_prompt_that_is_left_out_of_the_pooling(shallow_encoder: Path, tmp_path: Path) -> None:
    """Only where there is one."""
    section = ModelSection(base=str(shallow_encoder), pooling="mean", max_tokens=16, prompt_in_pooling=False)
    model = build_model(section)
    model.prompts = {"query": "find the: ", "document": ""}
    with pytest.raises(
        RunError, match="leaves out the tokens of the prompt 'find the: ', .* model.prompt_in_pooling = true"
    ):
        export_onnx(model, tmp_path / "onnx")
    model.prompts = {"query": "", "document": ""}
    export_onnx(model, tmp_path / "onnx")
    assert_same(tmp_path / "onnx", model)
