"""Verify a saved model by running it, whatever its configuration says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from multigrain.errors import first_line
from multigrain.export.onnx import CLOSE as CLOSE_ONNX
from multigrain.export.onnx import embed
from multigrain.model.build import sees_ahead
from multigrain.model.embedding_model import SHIPPED
from multigrain.model.eos import is_decoder
from multigrain.model.load import load_model
from multigrain.model.pooling import AnchorPooling, AnchorTransformer
from multigrain.model.roles import ROLES, Role, Vectors, prompt_for

TEXTS = ["A short text.", "And a longer one, so that there is something to pad in the first.", "One\nmore"]
ALIKE = ["the old house", "a cat sleeps"]
"""Texts of the same length, so that padding cannot cause a difference between them."""
CLOSE, ROUNDED = 1e-5, 2e-2
"""Largest difference that rounding causes between vectors of length 1, in full and in half precision."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the name of the check.
        is_good: whether the check passed.
        seen: the observation, in words.
    """

    name: str
    is_good: bool
    seen: str


def verify(folder: Path) -> list[Finding]:
    """Load a model, and check everything that saving and loading are known to break.

    Raises:
        RunError: the model cannot be loaded.
    """
    return list(_findings(load_model(folder), folder))


def render(folder: Path, findings: list[Finding]) -> str:
    """Return the findings as text, with a line for each."""
    good = sum(finding.is_good for finding in findings)
    lines = [f"{folder}: {good} of {len(findings)} checks passed"]
    lines += [f"  {'good' if found.is_good else 'BAD '}  {found.name:<16}{found.seen}" for found in findings]
    return "\n".join(lines)


def _findings(model: SentenceTransformer, folder: Path) -> Iterator[Finding]:
    for name, check in _checks(model, folder).items():
        try:
            yield check()
        except Exception as error:  # an error here also breaks the user's code
            yield Finding(name, False, first_line(error))


def _checks(model: SentenceTransformer, folder: Path) -> dict[str, Callable[[], Finding]]:
    """Return the checks for this model, by name."""
    backbone = getattr(model[0], "model", None)
    checks: dict[str, Callable[[], Finding]] = {"vectors": lambda: _vectors(model)}
    if backbone is not None:
        checks["attention"] = lambda: _attention(model, backbone)
        if is_decoder(backbone.config):
            checks["EOS"] = lambda: _eos(model)
    for role in ROLES:
        if prompt_for(role, model.prompts):
            checks[f"{role} prompt"] = partial(_prompt, model, role)
    checks |= {"padding": lambda: _padding(model), "reload": lambda: _reload(model)}
    if any(type(module) in (AnchorTransformer, AnchorPooling) for module in model):
        checks["code"] = lambda: _code(folder)
    if (folder / "onnx" / "model.onnx").is_file() and find_spec("onnxruntime"):
        checks["ONNX"] = lambda: _onnx(model, folder / "onnx")
    return checks


def _encode(model: SentenceTransformer, texts: list[str] = TEXTS, **options: Any) -> Vectors:
    vectors: Vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False, **options)
    return vectors


def _vectors(model: SentenceTransformer) -> Finding:
    vectors = _encode(model, ALIKE)
    modules = " -> ".join(type(module).__name__ for module in model)
    if not np.isfinite(vectors).all():
        return Finding("vectors", False, f"{modules}: not finite numbers")
    if len(np.unique(vectors.round(4), axis=0)) < len(ALIKE):
        return Finding("vectors", False, f"{modules}: the same for different texts; check that the tokenizer fits")
    return Finding("vectors", True, f"{modules}: {vectors.shape[1]} dimensions, at most {model.max_seq_length} tokens")


def _attention(model: SentenceTransformer, backbone: Any) -> Finding:
    """Compare the attention in the configuration with the attention observed on a few tokens."""
    config = backbone.config
    ahead = sees_ahead(backbone)
    said = (getattr(config, "use_bidirectional_attention", False), getattr(model[0], "bidirectional", False))
    says_ahead = not is_decoder(config) or not getattr(config, "is_causal", True) or any(said)
    kinds = {True: "bidirectional", False: "causal"}
    if ahead != says_ahead:
        return Finding("attention", False, f"{kinds[ahead]}, though its configuration says {kinds[says_ahead]}")
    pooling = model[1] if len(model) > 1 else None
    favours_first = not ahead and isinstance(pooling, AnchorPooling) and not pooling.visibility_correction
    note = "; anchor pooling then favours the first tokens" if favours_first else ""
    return Finding("attention", True, f"{kinds[ahead]}, as its hidden states show{note}")


def _eos(model: SentenceTransformer) -> Finding:
    """Check the tokens that the model actually reads, because sentence-transformers may apply a template."""
    features: Any = model.preprocess([*TEXTS, "", "word " * (model.max_seq_length or 512)])
    last: set[int | None] = set()
    for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
        last.add(int(ids[mask.bool()][-1]) if mask.any() else None)
    if len(last) == 1 and last <= set(model.tokenizer.all_special_ids):
        return Finding("EOS", True, f"every text ends in {model.tokenizer.decode(list(last))}, even if truncated")
    return Finding("EOS", False, f"not every text ends in {model.tokenizer.eos_token}, as a decoder's texts should")


def _prompt(model: SentenceTransformer, role: Role) -> Finding:
    """Check that the sentence-transformers method for this role encodes texts as training and evaluation did."""
    prompt = prompt_for(role, model.prompts)
    encode = model.encode_query if role == "query" else model.encode_document
    found = np.asarray(encode(TEXTS, normalize_embeddings=True, show_progress_bar=False))
    name = f"{role} prompt"
    close = _tolerance(model)
    tokens = len(model.tokenizer(prompt)["input_ids"])
    if model.max_seq_length and tokens >= model.max_seq_length:
        return Finding(name, False, f"its {tokens} tokens fill the {model.max_seq_length} tokens that the model reads")
    if np.abs(found - _encode(model, prompt=prompt)).max() > close:
        return Finding(name, False, f"encode_{role} does not put {prompt!r} before a text")
    joined = _encode(model, [prompt + text for text in TEXTS])
    is_pooled = getattr(model[1] if len(model) > 1 else None, "include_prompt", True)
    if is_pooled != bool(np.abs(found - joined).max() <= close):
        return Finding(name, False, f"{prompt!r} is {'not ' * is_pooled}pooled, contrary to the configuration")
    return Finding(name, True, f"encode_{role} puts {prompt!r} before a text{'' if is_pooled else ', not pooled'}")


def _padding(model: SentenceTransformer) -> Finding:
    alone = np.stack([_encode(model, [text])[0] for text in TEXTS])
    return _same("padding", _encode(model), alone, _tolerance(model), "in a batch or alone")


def _reload(model: SentenceTransformer) -> Finding:
    with TemporaryDirectory() as copy:
        model.save_pretrained(copy, create_model_card=False)
        return _same("reload", _encode(model), _encode(load_model(copy)), _tolerance(model), "saved and reloaded")


def _onnx(model: SentenceTransformer, folder: Path) -> Finding:
    graph = embed(folder, "model.onnx", TEXTS, len(TEXTS))
    return _same("ONNX", _encode(model, prompt=""), graph, CLOSE_ONNX, "by onnx/model.onnx")


def _same(name: str, vectors: Vectors, others: Vectors, close: float, how: str) -> Finding:
    difference = float(np.abs(vectors - others).max())
    return Finding(name, difference <= close, f"{how}, vectors differ by at most {difference:.1g}")


def _tolerance(model: SentenceTransformer) -> float:
    is_quantized = getattr(model[0], "quantize", None)
    return CLOSE if model.dtype in (torch.float32, torch.float64) and not is_quantized else ROUNDED


def _code(folder: Path) -> Finding:
    """Compare the code in the folder with the code of this version, without running it."""
    for file in SHIPPED:
        own = folder / file.name
        if not own.is_file():
            return Finding("code", False, f"no {file.name}; without it, sentence-transformers cannot load the folder")
        if own.read_bytes() != file.read_bytes():
            found = f"{file.name} differs from this version of multigrain; read it before you trust it"
            return Finding("code", False, found)
    return Finding("code", True, "as in this version; it loads the folder without multigrain")
