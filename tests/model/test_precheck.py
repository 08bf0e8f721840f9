"""What cannot work is told by the files of a model, before anything is loaded or paid for."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)

from multigrain.config import ModelSection, load_config
from multigrain.errors import ConfigError, MultigrainError
from multigrain.model import architectures
from multigrain.model.build import build_model
from multigrain.model.eos import is_decoder
from multigrain.model.integrity import position_limit
from multigrain.model.load import load_base, load_cross_encoder, load_model
from multigrain.model.precheck import notes, precheck_base, precheck_cross_encoder, precheck_encoder, precheck_model
from multigrain.pipeline.check import check
from multigrain.pipeline.preflight import require
from multigrain.pipeline.verbs import run
from tests.model import architectures as kinds
from tests.model.decoder import tiny_decoder
from tests.model.test_gguf import write_gguf

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]
MODELS = ("model.base", "grading.judge_model", "grading.cross_encoder")


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_modules(tiny_encoder: Path, folder: Path, *modules: Any, mode: Any = "mean", **options: Any) -> Path:
    """A base with more than a transformer and a pooling."""
    torch.manual_seed(1)
    begin = [Transformer(str(tiny_encoder)), Pooling(32, mode)]
    SentenceTransformer(modules=[*begin, *modules], **options).save_pretrained(str(folder), create_model_card=False)
    return folder


# Is there such a model?


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such/model", "no-such/model: no such folder, and not in the cache of the hub, which HF_HUB_OFFLINE"),
        ("no-such-model", "no-such-model: no such folder, and not in the cache"),
        ("models/of/mine", "models/of/mine: no such folder; wanted a model's folder"),
        ("./mine", "./mine: no such folder"),
        ("~/mine", "~/mine: no such folder"),
        ("not a name", "not a name: no such folder, and no name that a model on the hub can have"),
        ("embedded-", 'did you mean "embedded"?'),
        ("embedded_llm", 'did you mean "embedded-llm"?'),
        ("mine.gguf", "mine.gguf: no such file"),
    ],
)
def test_a_name_of_nothing_is_told_by_check(key: str, name: str, message: str, run_toml: Path) -> None:
    settings = [f"{key}={json.dumps(name)}"] + ['grading.judge="cross-encoder"'] * (key == MODELS[2])
    with pytest.raises(ConfigError, match=f"^{key}: ") as caught:
        check(load_config(run_toml, settings))
    assert message in str(caught.value)


def test_a_folder_beside_is_what_is_meant(tiny_encoder: Path, run_toml: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    with pytest.raises(ConfigError, match=f'did you mean "{tmp_path}/encoder"'):
        require(load_config(run_toml, [f"model.base={tmp_path}/encodre"]))


class Hub(BaseHTTPRequestHandler):
    """Files of the repository org/tiny, and other answers of a hub."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        _, owner, name, *rest = self.path.split("/")
        self.asked.append(self.path)
        status, code = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (500, "")}.get(
            owner, (404, "EntryNotFound" if (owner, name) == ("org", "tiny") else "RepoNotFound")
        )
        content = self.files.get("/".join(rest[2:])) if (owner, name) == ("org", "tiny") else None
        self.send_response(200 if content is not None else status)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None and code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if content is not None and self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD  # noqa: N815 (the host's own name)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, and an empty cache."""
    Hub.asked, Hub.files = [], {"config.json": (tiny_encoder / "config.json").read_bytes()}
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", here := f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gated/model", "gated/model is gated: accept its terms at http://127.0.0.1"),
        ("private/model", "no such model at http://127.0.0.1.*/private/model, unless it is private"),
        ("nobody/model", "nobody/model: no such folder, and no such model at"),
        ("broken/model", "broken/model cannot be looked up at .*500"),
    ],
)
def test_what_the_hub_says(name: str, message: str, hub: type[Hub], run_toml: Path) -> None:
    with pytest.raises(ConfigError, match=f"^grading.judge_model: .*{message}"):
        require(load_config(run_toml, [f"grading.judge_model={name}"]))


def test_a_hub_that_is_not_there(hub: type[Hub], run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    with pytest.raises(ConfigError, match="the hub cannot be reached .*hf download some/model"):
        require(load_config(run_toml, ["model.base=some/model"]))


def test_a_model_of_the_hub_is_known_by_its_small_files_and_asked_for_once(hub: type[Hub], run_toml: Path) -> None:
    config = load_config(run_toml, ["model.base=org/tiny", "model.anchor.layers=[5]"])
    with pytest.raises(ConfigError, match="there is no attention layer 5; the base has 2"):
        require(config)
    asked = len(hub.asked)
    with pytest.raises(ConfigError, match="there is no attention layer 5"):
        require(config)
    assert asked == len(hub.asked) > 0
    assert not any("safetensors" in path for path in hub.asked)


def test_a_model_of_the_hub_with_code_of_its_own(hub: type[Hub], run_toml: Path) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "new_type", "auto_map": {"AutoModel": "m.M"}}).encode()
    with pytest.raises(ConfigError, match='transformers knows no architecture "new_type"; it has code of its own'):
        require(load_config(run_toml, ["model.base=org/tiny"]))


# Can it be loaded and trained?


def refused(section: ModelSection, message: str) -> None:
    """By its files, and by whoever builds it without having looked."""
    with pytest.raises(MultigrainError, match=message):
        precheck_model(section)
    with pytest.raises(MultigrainError):
        build_model(section)


def test_code_of_its_own(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base")
    modules = json.loads((base / "modules.json").read_text())
    modules[1]["type"] = "modeling_mine.MyPooling"
    (base / "modules.json").write_text(json.dumps(modules))
    refused(ModelSection(base=str(base)), "modules of its own, which multigrain does not run .modeling_mine.MyPooling")
    with pytest.raises(ConfigError, match="grading.judge_model: .*modeling_mine.MyPooling"):
        require(load_config(run_toml, [f"grading.judge_model={base}"]))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_files_that_are_missing(missing: str, tiny_encoder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    for name in (missing, *(["vocab.txt", "tokenizer_config.json"] if "tokenizer" in missing else [])):
        (base / name).unlink()
    what = "weights" if "model" in missing else "tokenizer"
    refused(ModelSection(base=str(base)), f"there is no file of its {what} in {base}")


def test_modules_that_would_be_lost(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Normalize())
    modules = json.loads((base / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.WordWeights"
    (base / "modules.json").write_text(json.dumps(modules))
    refused(ModelSection(base=str(base)), "modules that would be lost: WordWeights")
    modules[0]["type"] = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    (base / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="begins with a StaticEmbedding; wanted a transformer"):
        precheck_model(ModelSection(base=str(base)))


def test_a_decoder_that_cannot_end_a_text(tmp_path: Path) -> None:
    refused(ModelSection(base=str(tiny_decoder(eos=False))), "no EOS token, which decoders need at the end of a text")
    for good in (tiny_decoder(), tiny_decoder("eos")):
        precheck_model(ModelSection(base=str(good)))
        build_model(ModelSection(base=str(good)))


def test_targets_of_an_adapter_that_the_base_has_not(tiny_encoder: Path) -> None:
    lora: Any = {"targets": ["query", "values"]}
    section = ModelSection.model_validate({"base": str(tiny_encoder), "lora": lora})
    refused(section, r"lora.targets: found \['values'\]; the base has dense, key, query, value")
    for targets in (["query"], ["attention.self.query", "key"], ["0.output.dense"]):
        section = ModelSection.model_validate({"base": str(tiny_encoder), "lora": {"targets": targets}})
        precheck_model(section)
        build_model(section)


def test_cross_encoders(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    two = shutil.copytree(tiny_cross_encoder, tmp_path / "two")
    edit(two / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    cases = [(tiny_encoder, "has no head that scores pairs .BertModel"), (two, "gives 2 scores for a pair")]
    for folder, message in cases:
        config = load_config(run_toml, ['grading.judge="cross-encoder"', f"grading.cross_encoder={folder}"])
        with pytest.raises(ConfigError, match=f"grading.cross_encoder: .*{message}"):
            require(config)
    with pytest.raises(ConfigError, match="has no head"):
        load_cross_encoder(str(tiny_encoder))
    require(load_config(run_toml, ['grading.judge="cross-encoder"', f"grading.cross_encoder={tiny_cross_encoder}"]))


def test_what_transformers_knows_is_read_from_its_source() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    known = [kind for kind in configuration_auto.CONFIG_MAPPING_NAMES if kind[0].islower()]
    assert len(known) > 100
    assert all(map(architectures.is_known, known))
    assert not architectures.is_known("my_own")
    for kind in known:
        writes = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        fills = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        assert architectures.is_decoder(kind) == (writes and not fills), kind
    assert is_decoder(transformers.LlamaConfig())


# What stays of the base


@pytest.mark.parametrize(("pooling", "lora"), [("anchor", False), ("cls", False), ("mean", True)])
def test_dense_and_layer_norm_stay(pooling: Any, lora: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    """As EmbeddingGemma and sentence-t5 have it. With the base's own pooling, the vectors are the base's own."""
    more = [Dense(32, 48), Dense(48, 16, activation_function=torch.nn.Identity()), LayerNorm(16), Normalize()]
    base = with_modules(tiny_encoder, tmp_path / "base", *more, mode="cls")
    section = {"base": str(base), "pooling": pooling, "lora": {"rank": 2} if lora else None}
    precheck_model(ModelSection.model_validate(section))
    model = build_model(ModelSection.model_validate(section))
    assert [type(module).__name__ for module in model][2:] == ["Dense", "Dense", "LayerNorm", "Normalize"]
    assert all(weight.requires_grad is not lora for weight in model[2].parameters())
    if pooling == "cls":
        np.testing.assert_allclose(model.encode(TEXTS), load_base(str(base)).encode(TEXTS), atol=1e-6)
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(load_model(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    if pooling != "anchor" and not lora:
        np.testing.assert_allclose(
            SentenceTransformer(str(tmp_path / "saved")).encode(TEXTS), model.encode(TEXTS), atol=1e-6
        )
    assert "the base's Dense (32 -> 48, 48 -> 16) stays behind the pooling" in notes(ModelSection(base=str(base)))


def test_a_dense_that_does_not_fit(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "two", Dense(64, 16), mode=("cls", "mean"))
    refused(ModelSection(base=str(base)), "its Dense reads vectors of 64 numbers, .* one gives 32")
    tokens = with_modules(tiny_encoder, tmp_path / "tokens", Dense(32, 16, module_input_name="token_embeddings"))
    with pytest.raises(ConfigError, match="its Dense reads the vectors of tokens"):
        precheck_model(ModelSection(base=str(tokens)))
    with pytest.raises(ConfigError, match="matryoshka: found .20.; the vectors have 16 numbers"):
        precheck_model(ModelSection(base=str(with_modules(tiny_encoder, tmp_path / "one", Dense(32, 16)))), [20])


def test_a_base_that_cuts_its_vectors_is_compared_alike(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", truncate_dim=8)
    model = build_model(ModelSection(base=str(base), pooling="mean"))
    assert model.encode(TEXTS).shape == load_base(str(base)).encode(TEXTS).shape == (4, 8)
    np.testing.assert_allclose(
        model.encode(TEXTS, normalize_embeddings=True),
        load_base(str(base)).encode(TEXTS, normalize_embeddings=True),
        atol=1e-6,
    )
    model.save_pretrained(str(tmp_path / "saved"))
    assert load_model(tmp_path / "saved").encode(TEXTS).shape == (4, 8)
    assert any("vectors are cut to 8 numbers" in note for note in notes(ModelSection(base=str(base))))
    assert "vectors are cut to 8 numbers" in check(load_config(run_toml, [f"model.base={base}"]))


def test_a_run_trains_and_exports_what_stays(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    """Dense and the cut are there in the folder that others load; the cut vectors are trained, and so is the Dense."""
    base = with_modules(tiny_encoder, tmp_path / "base", Dense(32, 16), truncate_dim=8)
    config = load_config(run_toml, [f"model.base={base}", 'model.pooling="mean"', "training.learning_rate=0.01"])
    summary = run(config)
    assert set(summary["base"]) == set(summary["trained"]) == {"held-out"}
    plain, before = SentenceTransformer(str(config.folder / "model")), load_base(str(base))
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert plain.encode(TEXTS).shape == (4, 8)
    after, old = (dict(model.named_parameters())["2.linear.weight"] for model in (plain, before))
    assert not torch.allclose(after, old, atol=1e-3)


# How much it reads


def saved(kind: str, folder: Path, tiny_encoder: Path, **options: Any) -> Path:
    """A tiny model of another architecture with the word tokenizer of the tiny encoder."""
    shutil.copytree(tiny_encoder, folder)
    name, sizes = kinds.ENCODERS[kind]
    cls = getattr(transformers, name)
    cls(cls.config_class(**{**sizes, "vocab_size": 70, **options})).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**9)
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "reads"),
    [
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 34}, 32),
        ("xlm-roberta", {"pad_token_id": 0, "max_position_embeddings": 34}, 33),
        ("mpnet", {"max_position_embeddings": 34}, 32),
        ("bert", {"max_position_embeddings": 34}, 34),
        ("distilbert", {"max_position_embeddings": 34}, 34),
    ],
)
def test_texts_are_cut_at_the_last_position(
    kind: str, options: dict[str, Any], reads: int, tiny_encoder: Path, tmp_path: Path, run_toml: Path
) -> None:
    folder = saved(kind, tmp_path / kind, tiny_encoder, **options)
    long = [" ".join(["cat"] * 100)]
    assert position_limit(load_base(str(folder))) == reads
    for model in (load_base(str(folder), 600), build_model(ModelSection(base=str(folder), max_tokens=600))):
        assert model.max_seq_length == reads
        assert np.isfinite(model.encode(long)).all()
    [note] = notes(ModelSection(base=str(folder), max_tokens=600))
    assert note == f"model.max_tokens: found 600; {folder} reads {reads} tokens of a text at most"
    told = check(load_config(run_toml, [f"grading.judge_model={folder}", "grading.judge_max_tokens=600"]))
    assert f"grading.judge_max_tokens: found 600; {folder} reads {reads} tokens" in told


def test_a_cross_encoder_is_cut_at_its_last_position(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    shutil.copytree(tiny_encoder, folder)
    sizes: dict[str, Any] = {**kinds.SIZE, "vocab_size": 70, "pad_token_id": 1, "max_position_embeddings": 34}
    config = transformers.RobertaConfig(**sizes, num_labels=1)
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**9)
    model = load_cross_encoder(str(folder), 600)
    assert model.max_seq_length == 32
    assert np.isfinite(model.predict([(" ".join(["cat"] * 50), " ".join(["dog"] * 50))])).all()


@pytest.mark.parametrize("form", ["compact", "legacy"])
def test_a_base_that_pools_otherwise_is_told(form: str, tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", mode="cls")
    if form == "legacy":
        names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        modes = {f"pooling_mode_{name}": name == "cls_token" for name in names}
        (base / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    told = check(load_config(run_toml, [f"model.base={base}"]))
    assert 'the base pools by cls; "anchor" takes its place' in told
    assert '(model.pooling = "cls" keeps them)' in told
    assert notes(ModelSection(base=str(base), pooling="cls", max_tokens=32)) == []
    assert notes(ModelSection(base=str(with_modules(tiny_encoder, tmp_path / "mean")), max_tokens=32)) == []


# Are its files whole?


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def as_shards(folder: Path) -> Path:
    """The weights under the name of a shard, with an index that names another one too."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder / "model-00001-of-00002.safetensors"


def pickled(folder: Path, begin: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(begin)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
DAMAGES: dict[str, tuple[Any, str]] = {
    "pointer": (lambda m: (m / "model.safetensors").write_text(POINTER), "model.safetensors is a pointer of git-LFS"),
    "cut": (lambda m: cut(m / "model.safetensors"), "model.safetensors is cut off or damaged"),
    "empty": (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors is cut off or damaged"),
    "no shard": (as_shards, "model-00002-of-00002.safetensors is not there, which model.safetensors.index.json names"),
    "cut shard": (lambda m: cut(as_shards(m)), "model-00001-of-00002.safetensors is cut off or damaged"),
    "settings": (lambda m: (m / "config.json").write_text('{"model_type": '), "config.json is no JSON"),
    "modules": (lambda m: (m / "modules.json").write_text("["), "modules.json is no JSON"),
    "tokenizer": (lambda m: (m / "tokenizer.json").write_text(POINTER), "tokenizer.json is a pointer of git-LFS"),
    "pickle": (lambda m: pickled(m, b"PK\3\4half an archive"), "pytorch_model.bin is cut off or damaged"),
    "others' file": (lambda m: (m / "model.safetensors").rename(m / "training_args.bin"), "no file of its weights"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_whole(damage: str, tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    do, message = DAMAGES[damage]
    do(base)
    for key in ("model.base", "grading.judge_model"):
        with pytest.raises(ConfigError, match=f"^{key}: {base} cannot be loaded: .*{message}"):
            require(load_config(run_toml, [f"{key}={base}"]))


def test_a_dense_whose_weights_are_cut(tiny_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Dense(32, 16))
    cut(base / "2_Dense" / "model.safetensors")
    refused(ModelSection(base=str(base)), "2_Dense/model.safetensors is cut off or damaged")


def test_weights_that_no_one_may_fetch(hub: type[Hub], run_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(run_toml, ["model.base=org/tiny"])
    require(config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="org/tiny cannot be loaded: there is no file of its weights in .*snapshots"):
        require(config)


def test_a_gguf_file_that_is_damaged(tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf")
    precheck_model(ModelSection(base=str(good)))
    whole, bad = good.read_bytes(), tmp_path / "bad.gguf"
    damaged = (b"GGUF" + bytes(100), whole[:20], whole[:400], whole[: len(whole) // 2], whole[:24] + b"\xff" * 500)
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^model.base: .*bad.gguf is (cut off|a GGUF file of version 0)"):
            precheck_model(ModelSection(base=str(bad)))


# Is it transformers' own architecture?


def other_names(folder: Path) -> None:
    """Weights as jina-embeddings-v2 names them."""
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("intermediate.dense", "mlp.up"): weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def test_code_of_its_own_under_a_known_name(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    edit(base / "config.json", auto_map={"AutoModel": "jinaai/code--modeling_bert.JinaBertModel"})
    with pytest.raises(ConfigError, match=r"model.base: .*code of its own, which multigrain does not run .*JinaBert"):
        precheck_base(str(base))
    with pytest.raises(ConfigError, match=r"judge_model: .*code of its own, .*JinaBertModel"):
        precheck_encoder(str(base), "grading.judge_model")
    edit(base / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.BertModel"})
    precheck_base(str(base))  # the code has become transformers' own
    [note] = notes(ModelSection(base=str(base), max_tokens=32))
    assert note == "the base brings code of its own (code.BertModel); the bert of transformers takes its place"
    judge = shutil.copytree(tiny_cross_encoder, tmp_path / "judge")
    edit(judge / "config.json", auto_map={"AutoModelForSequenceClassification": "code.JinaScores"})
    with pytest.raises(ConfigError, match=r"grading.cross_encoder: .*code of its own, .*JinaScores"):
        precheck_cross_encoder(str(judge), "grading.cross_encoder")


@pytest.mark.parametrize("form", ["safetensors", "pickle", "hub", "folder"])
def test_weights_that_would_begin_at_random(
    form: str, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    other_names(base)
    if form == "pickle":
        torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
        (base / "model.safetensors").unlink()
    if form == "folder":
        base = with_modules(tiny_encoder, tmp_path / "host")
        (inner := base / "0_Transformer").mkdir()
        for file in [path for path in base.iterdir() if path.is_file() and "sentence_trans" not in path.name]:
            file.rename(inner / file.name)
        (inner / "modules.json").rename(base / "modules.json")
        modules = json.loads((base / "modules.json").read_text())
        (base / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, modules[1]]))
        load_base(str(base))
        other_names(inner)
    if form == "hub":
        cached = tmp_path / "hub" / "models--some--base"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("c" * 40)
        shutil.copytree(base, cached / "snapshots" / ("c" * 40))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"judge_model: .* 4 of its weights are not in its files, such as .*intermed"):
        load_base("some/base" if form == "hub" else str(base), None, "grading.judge_model")


def test_old_names_of_weights_are_known(tiny_encoder: Path, tmp_path: Path) -> None:
    """As the first BERT has them; transformers translates them."""
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        weights = {f"bert.{key}".replace("bert.bert.", "bert.").replace(new, name): w for key, w in weights.items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(
        load_base(str(base)).encode(TEXTS), load_base(str(tiny_encoder)).encode(TEXTS), atol=1e-6
    )


def test_a_cross_encoder_with_weights_that_would_begin_at_random(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    judge = shutil.copytree(tiny_cross_encoder, tmp_path / "judge")
    other_names(judge)
    with pytest.raises(ConfigError, match=r"judge_model: .* 4 of its weights are not in its files"):
        load_cross_encoder(str(judge))


def test_an_encoder_is_no_cross_encoder(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    encoder = with_modules(tiny_encoder, tmp_path / "encoder", Normalize())
    for name in ("config_sentence_transformers.json", "old settings"):  # as old releases saved it, without a kind
        with pytest.raises(ConfigError, match=r"cross_encoder: .*encoder has no head that scores pairs .BertModel"):
            precheck_cross_encoder(str(encoder), "grading.cross_encoder")
        if "json" in name:
            (encoder / name).unlink()
    scorer = shutil.copytree(tiny_cross_encoder, tmp_path / "scorer")
    modules = json.loads((scorer / "modules.json").read_text())
    place = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    (scorer / "modules.json").write_text(json.dumps([*modules, modules[0] | {"type": place, "path": "1_LogitScore"}]))
    edit(scorer / "config.json", architectures=["Qwen3ForCausalLM"])
    precheck_cross_encoder(str(scorer), "grading.cross_encoder")


def test_a_list_of_modules_without_a_pooling(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base", Normalize())
    modules = json.loads((base / "modules.json").read_text())
    (base / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ConfigError, match="model.base: .* modules.json lists no pooling .Transformer., so texts"):
        precheck_base(str(base))
    (base / "modules.json").write_text(json.dumps([modules[0], modules[2]]))
    with pytest.raises(ConfigError, match="judge_model: .* modules.json lists no pooling .Transformer, Normalize."):
        precheck_encoder(str(base), "grading.judge_model")
    precheck_cross_encoder(str(tiny_cross_encoder), "grading.cross_encoder")


def test_more_layers_that_see_ahead_than_there_are(tiny_encoder: Path) -> None:
    section = ModelSection.model_validate({"base": str(tiny_encoder), "bidirectional": 5})
    refused(section, "bidirectional: found 5; the base has 2 layers")


def test_a_saved_length_beyond_the_positions(tiny_encoder: Path, tmp_path: Path, run_toml: Path) -> None:
    base = with_modules(tiny_encoder, tmp_path / "base")
    edit(base / "sentence_bert_config.json", max_seq_length=512)
    edit(base / "tokenizer_config.json", model_max_length=16)  # the saved length counts instead
    assert load_base(str(base), 600).max_seq_length == 64
    [note] = notes(ModelSection(base=str(base), max_tokens=100))
    assert note == f"model.max_tokens: found 100; {base} reads 64 tokens of a text at most"
    told = check(load_config(run_toml, [f"grading.judge_model={base}", "grading.judge_max_tokens=600"]))
    assert f"grading.judge_max_tokens: found 600; {base} reads 64 tokens" in told


def test_positions_that_are_counted_from_each_other_set_no_length(tiny_encoder: Path, tmp_path: Path) -> None:
    """T5 and its kin have a table of distances; whatever else their settings say."""
    folder = tmp_path / "alibi"
    with_modules(tiny_encoder, folder)
    edit(folder / "sentence_bert_config.json", max_seq_length=512)
    edit(folder / "config.json", model_type="llama")
    assert "reads" not in " ".join(notes(ModelSection(base=str(folder), max_tokens=100)))


def test_a_file_where_a_folder_is_wanted(tiny_encoder: Path) -> None:
    file = tiny_encoder / "model.safetensors"
    with pytest.raises(ConfigError, match=f"{file} is a file; wanted its folder, {tiny_encoder}") as caught:
        precheck_base(str(file))
    assert "did you mean" not in str(caught.value)


def test_vectors_are_cut_only_by_a_length_below_theirs(tiny_encoder: Path, tmp_path: Path) -> None:
    for place, (length, modules) in enumerate([(32, ()), (100, ()), (16, (Dense(32, 16),))]):
        base = with_modules(tiny_encoder, tmp_path / str(place), *modules, truncate_dim=length)
        assert not any("vectors are cut" in note for note in notes(ModelSection(base=str(base))))
