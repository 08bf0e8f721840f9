"""Models with an adapter, and without: no way of saving and loading changes a vector or forgets the attention."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, LlamaModel

from multigrain.config import ExportSection, LoraSection
from multigrain.errors import ConfigError, RunError
from multigrain.export.model_folder import export_model, merge_model
from multigrain.model.adapter import has_adapter, merge, merge_in_place
from multigrain.model.build import sees_ahead
from multigrain.model.load import load_model
from tests.model.adapters import DORA, LORA, TEXTS, backbone, build, save, trained
from tests.model.decoder import tiny_decoder


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are done sooner than two threads have met."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """A kind of model: what is built, and whether its two folders need our code."""

    settings: dict[str, Any]
    decoder: dict[str, Any] | None
    lora: LoraSection | None
    folder_is_plain: bool
    merged_is_plain: bool

    @property
    def sees_ahead(self) -> bool:
        return self.decoder is None or bool(self.settings.get("bidirectional", True))

    def build(self, encoder: Path) -> SentenceTransformer:
        return build(encoder if self.decoder is None else tiny_decoder(**self.decoder), self.lora, **self.settings)


LEFT = {"template": "both", "padding_side": "left", "pad": True}

CHAT = {"chat": True, "pad": True}

CASES = {
    "anchor": Case({}, CHAT, LORA, False, False),
    "anchor, dora, left": Case({}, LEFT, DORA, False, False),
    "anchor, causal": Case({"bidirectional": False}, {}, LORA, False, False),
    "anchor, all weights": Case({}, {}, None, False, False),
    "mean": Case({"pooling": "mean"}, CHAT, LORA, False, True),
    "mean, dora, left": Case({"pooling": "mean"}, LEFT, DORA, False, True),
    "mean, all weights": Case({"pooling": "mean"}, {}, None, True, True),
    "anchor, top two layers, left": Case({"bidirectional": 2}, LEFT, LORA, False, False),
    "mean, top layer": Case({"pooling": "mean", "bidirectional": 1}, CHAT, LORA, False, False),
    "mean, top layer, all weights": Case({"pooling": "mean", "bidirectional": 1}, {}, None, False, False),
    "last, causal, left": Case({"pooling": "last", "bidirectional": False}, LEFT, LORA, False, True),
    "anchor, encoder": Case({"bidirectional": False}, None, None, False, False),
}

SCRIPT = """
import json, os, pathlib, pickle, sys, warnings
warnings.filterwarnings("ignore")
import torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(1)
texts, found, pickled = json.loads(sys.argv[1]), {}, pathlib.Path(sys.argv[3])
if not os.fork():
    vectors = pickle.loads(pickled.read_bytes()).encode(texts).tolist()
    pickled.with_suffix(".json").write_text(json.dumps(vectors))
    os._exit(0)
assert os.wait()[1] == 0
sys.modules["multigrain"] = None
tokens = torch.tensor([[5, 6, 7], [5, 6, 8]])
for path, plain in json.loads(sys.argv[2]).items():
    for again in ("", " again"):
        model = SentenceTransformer(path + again, trust_remote_code=not plain)
        first = model.transformers_model(input_ids=tokens).last_hidden_state[:, 0]
        found[path + again] = [model.encode(texts).tolist(), not torch.equal(first[0], first[1])]
        if not again:
            model.save_pretrained(path + " again", create_model_card=False)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Sent:
    """A model that has run, its vectors, and those of its copy in a process where nothing has made a model before."""

    model: SentenceTransformer
    expected: Any
    elsewhere: Any


@pytest.fixture(scope="module")
def everywhere(
    tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Iterator[dict[str, Any]]:
    """For each case, the vectors by each way, and whether a token sees those after it; under "sent", a `Sent`.

    One process that cannot import multigrain loads all of them, saves them and loads them again. Before, a child of it
    that can takes the model that is sent.
    """
    root = tmp_path_factory.mktemp("everywhere")
    found: dict[str, Any] = {}
    plain: dict[str, bool] = {}
    for name, case in CASES.items():
        model = trained(case.build(tiny_encoder))
        folder, merged = save(model, root / name), root / f"{name}, merged"
        export_model(folder, merged, "card", ExportSection())
        by_way = {"memory": (model.encode(TEXTS), sees_ahead(model[0].model))}
        for way, path in (("folder", folder), ("merged", merged)):
            loaded = load_model(path)
            by_way[way] = (loaded.encode(TEXTS), sees_ahead(loaded[0].model))
        found[name] = by_way
        plain |= {str(folder): case.folder_is_plain, str(merged): case.merged_is_plain}
    model = trained(build(tiny_decoder()))
    expected = model.encode(TEXTS)
    (root / "sent.pkl").write_bytes(pickle.dumps(model))
    command = [sys.executable, "-c", SCRIPT, json.dumps(TEXTS), json.dumps(plain), str(root / "sent.pkl")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for path, vectors in json.loads(result.stdout.splitlines()[-1]).items():
        name = Path(path).name.removesuffix(" again").removesuffix(", merged")
        found[name][f"the host alone: {Path(path).name}"] = vectors
    yield found | {"sent": Sent(model, expected, json.loads((root / "sent.json").read_text()))}
    shutil.rmtree(root)


@pytest.mark.parametrize("name", CASES)
def test_a_trained_model_gives_the_same_vectors_by_every_way(
    everywhere: dict[str, Any], tiny_encoder: Path, name: str
) -> None:
    case, by_way = CASES[name], everywhere[name]
    expected, _ = by_way["memory"]
    assert len(by_way) == 7
    for way, (vectors, is_bidirectional) in by_way.items():
        np.testing.assert_allclose(vectors, expected, atol=1e-5 if case.lora else 1e-6, err_msg=way)
        assert is_bidirectional is case.sees_ahead, way
    untrained = case.build(tiny_encoder).encode(TEXTS)
    assert np.abs(untrained - expected).max() > 0.1


def test_a_merged_folder_depends_on_no_other(tmp_path: Path) -> None:
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    folder = save(trained(build(base)), tmp_path / "folder")
    export_model(folder, tmp_path / "merged", "card", ExportSection())
    loaded = load_model(folder)
    expected = loaded.encode(TEXTS)
    assert all(parameter.requires_grad for parameter in merge(loaded).parameters())  # it can be trained again
    shutil.rmtree(base)
    shutil.rmtree(folder)
    merged = load_model(tmp_path / "merged")
    np.testing.assert_allclose(merged.encode(TEXTS), expected, atol=1e-5)
    assert not has_adapter(merged)
    named = "".join(path.read_text() for path in (tmp_path / "merged").rglob("*.json"))
    assert "lora" not in named and str(base) not in named
    assert sees_ahead(build(tmp_path / "merged", None, pooling="mean", bidirectional=False)[0].model)


def test_a_merged_model_keeps_what_else_the_model_says(tmp_path: Path) -> None:
    model = trained(build(tiny_decoder(), pooling="mean", instruction="Find it"))
    model.similarity_fn_name, model.truncate_dim = "dot", 8
    expected = model.encode_query(TEXTS)
    export_model(save(model, tmp_path / "folder"), tmp_path / "merged", "card", ExportSection())
    merged = load_model(tmp_path / "merged")
    assert merged.prompts["query"] == "Instruct: Find it\nQuery: "
    assert (merged.similarity_fn_name, merged.max_seq_length) == ("dot", 16)
    merged.truncate_dim = 8  # the host saves it nowhere
    np.testing.assert_allclose(merged.encode_query(TEXTS), expected, atol=1e-5)


def test_a_copy_sees_ahead_too() -> None:
    model = trained(build(tiny_decoder()))
    again = copy.deepcopy(model)
    assert sees_ahead(again[0].model)
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_an_adapter_that_others_trained_can_be_merged(tmp_path: Path) -> None:
    """Saved by the host alone: its module knows nothing of ours."""
    from peft import LoraConfig

    model = SentenceTransformer(str(tiny_decoder(pad=True)))
    backbone(model).add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    expected = model.encode(TEXTS)
    merge_model(save(model, tmp_path / "folder"), tmp_path / "merged")
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "merged")).encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("lora", [LORA, DORA])
def test_a_model_in_half_precision_can_be_merged(tmp_path: Path, lora: LoraSection) -> None:
    model = trained(build(tiny_decoder(dtype=torch.bfloat16), lora))
    export_model(save(model, tmp_path / "folder"), tmp_path / "merged", "card", ExportSection())
    merged = load_model(tmp_path / "merged")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    assert ((merged.encode(TEXTS) * model.encode(TEXTS)).sum(1) > 0.98).all()


def test_a_merge_in_half_precision_rounds_once() -> None:
    model = trained(build(tiny_decoder(dtype=torch.bfloat16)))
    layer = backbone(model).layers[0].mlp.up_proj
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    exact = layer.base_layer.weight.float() + layer.scaling["default"] * (high @ low)
    merge_in_place(backbone(model))
    assert torch.equal(backbone(model).layers[0].mlp.up_proj.weight, exact.to(torch.bfloat16))


def test_a_model_that_has_run_can_be_sent_to_another_process(everywhere: dict[str, Any]) -> None:
    """As to those of the host's pool."""
    sent: Sent = everywhere["sent"]
    again = pickle.loads(pickle.dumps(sent.model))
    for vectors in (again.encode(TEXTS), sent.model.encode(TEXTS), sent.elsewhere):
        np.testing.assert_allclose(vectors, sent.expected, atol=1e-6)


def test_merging_says_what_cannot_be_merged(tmp_path: Path) -> None:
    whole = save(build(tiny_decoder(), None), tmp_path / "whole")
    with pytest.raises(RunError, match="has no adapter to merge"):
        merge_model(whole, tmp_path / "merged")
    with pytest.raises(RunError, match="no model here"):
        merge_model(tmp_path / "absent", tmp_path / "merged")
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    adapter = save(build(base), tmp_path / "adapter")
    for folder, message in ((adapter, "the adapter itself"), (base, "the adapter's base")):
        with pytest.raises(ConfigError, match=f"is the folder of {message}"):
            merge_model(adapter, folder)
    with_head: Any = build(base)
    with_head[0].model.peft_config["default"].modules_to_save = ["norm"]
    with pytest.raises(RunError, match=r"its adapter contains whole modules \(norm\), which cannot be merged"):
        merge(with_head)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "whole"]


def test_an_adapter_of_other_weights_under_the_same_embeddings_is_refused(tmp_path: Path) -> None:
    """Such as another fine-tuning of the same model."""
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    folder = save(build(base), tmp_path / "folder")
    other = LlamaModel.from_pretrained(base)
    with torch.no_grad():
        other.layers[1].mlp.up_proj.weight.add_(0.1)
    other.save_pretrained(base)
    with pytest.raises(RunError, match="its adapter was trained on another base"):
        load_model(folder)


def test_dora_of_others_in_the_hosts_own_frame_is_loaded_whole(tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_decoder(pad=True)))
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.5)
    model.save_pretrained(str(tmp_path))
    np.testing.assert_allclose(load_model(tmp_path).encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_a_model_can_be_copied_while_it_is_in_use() -> None:
    """Copying must not take hooks from the model itself."""
    model = trained(build(tiny_decoder()))
    model.encode(TEXTS)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert sum(hooks)
    pickle.dumps(model)
    copy.deepcopy(model)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_an_adapter_refuses_another_base_and_one_that_is_gone(tmp_path: Path) -> None:
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    folder = save(build(base), tmp_path / "folder")
    other = AutoModel.from_pretrained(base)
    other.embed_tokens.weight.data.mul_(1.1)
    other.save_pretrained(base)
    with pytest.raises(RunError, match=f"folder: .* adapter was trained on another base than {base}"):
        load_model(folder)
    shutil.rmtree(base)
    with pytest.raises(RunError, match=str(base)):
        load_model(folder)


def test_an_adapter_whose_base_is_gone_says_what_to_do(tmp_path: Path) -> None:
    base = shutil.copytree(tiny_decoder(), tmp_path / "base")
    folder = save(build(base), tmp_path / "folder")
    shutil.rmtree(base)
    with pytest.raises(RunError, match=f"folder: its adapter needs the model {base}, which does not exist. Restore it"):
        load_model(folder)


def test_an_adapter_knows_its_base_in_every_precision(tmp_path: Path) -> None:
    model = trained(build(tiny_decoder()))
    folder = str(save(model, tmp_path / "folder"))
    for dtype in ("bfloat16", "float16"):
        half = SentenceTransformer(folder, trust_remote_code=True, model_kwargs={"dtype": dtype})
        assert ((half.encode(TEXTS) * model.encode(TEXTS)).sum(1) > 0.98).all()


def test_an_adapter_finds_its_base_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_decoder(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = trained(build(Path("base")))
    save(model, tmp_path / "folder")
    monkeypatch.chdir("/")
    np.testing.assert_allclose(load_model(tmp_path / "folder").encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_a_file_of_an_adapter_that_is_cut_is_no_model(tmp_path: Path) -> None:
    folder = save(build(tiny_decoder()), tmp_path / "folder")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be loaded"):
        load_model(folder)
