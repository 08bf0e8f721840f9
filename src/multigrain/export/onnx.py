"""One ONNX graph from token ids to the normalised embedding, and a tokenizer file that makes the ids.

A folder that needs neither torch nor multigrain (`examples/onnx_embed.py` reads one):

    model.onnx        input_ids (B, n) and attention_mask (B, n), both int64 -> sentence_embedding (B, D), float32
    model_int8.onnx   the same in 8 bits
    tokenizer.json    cuts texts to the model's length and pads batches by itself
    prompts.json      what goes before a query, and before a document

A graph of 2 GB or more keeps its weights beside it, in `model.onnx.data`.

Letters: B texts, n tokens, D dimensions of the embedding.
"""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor, nn

from multigrain.errors import RunError, first_line
from multigrain.extras import require_extra
from multigrain.files import write_json, written_whole
from multigrain.model.adapter import has_adapter, merge
from multigrain.model.anchor_attention import evaluating
from multigrain.model.roles import ROLES, Vectors, prompt_for
from multigrain.terminal import say

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
CLOSE = 1e-4
"""Largest difference between the model's vectors and those of the graph: other kernels round otherwise."""
CLOSE_INT8 = 0.99
"""Lowest cosine between the model's vectors and those of the graph in 8 bits, below which the user is told."""
LARGE = 1.5e9
"""Bytes of weights from which on they lie beside the graph: a file of one piece holds less than 2 GiB."""
BLOCK = 32
"""Weights, and activations of a token, that share a scale in 8 bits."""
PROBE = [
    "A short text.",
    "A man with a hard hat is dancing.",
    "The library opens at nine on weekdays; at weekends, and on public holidays, it stays closed.",
    "How can I find and remove duplicate rows in a table without changing the order of the others?",
    "Shares of the company fell by 7.5 % on Tuesday, after it had said that profits would be lower than expected.",
    "fish",
]


def export_onnx(model: SentenceTransformer, folder: Path, int8: bool = False) -> None:
    """Write the model as an ONNX graph, pooling and normalisation inside, into `folder`; the model stays as it is.

    It is written beside, checked and put in place by renaming. The check reads the written files as a user would, by
    onnxruntime and tokenizers alone. In 8 bits, vectors move a little; by how much is said if it is more than it
    should be.

    Args:
        model: any whose first module is a transformer with a fast tokenizer. An adapter is merged.
        folder: what is there is replaced.
        int8: write `model_int8.onnx` too, a quarter of the size.

    Raises:
        RunError: a package is not installed, the model cannot be written as one graph, or the graph does not give the
            vectors of the model.
    """
    require_extra("onnx")
    _check_pooling(model)
    say("  writing the graph (a minute for a decoder of 30 layers) ...")
    model = _in_float32(merge(model) if has_adapter(model) else model)
    with written_whole(folder) as part, evaluating(model), _quiet():
        part.mkdir()
        _write_tokenizer(model, part / "tokenizer.json")
        write_json(part / "prompts.json", {role: prompt_for(role, model.prompts) for role in ROLES})
        _write_graph(model, part / "model.onnx")
        if int8:
            _write_int8(part / "model.onnx", part / "model_int8.onnx")
        lowest = _check(model, part, int8)
    if lowest < CLOSE_INT8:
        found = f"its vectors have a cosine of {lowest:.3f} to the model's on a probe; wanted {CLOSE_INT8} or more"
        say(f"{folder / 'model_int8.onnx'}: {found}. Measure it before you use it, or use model.onnx.")


def _check_pooling(model: SentenceTransformer) -> None:
    """A graph sees tokens, and not which of them are a prompt's."""
    without = any(isinstance(module, Pooling) and not module.include_prompt for module in model)
    prompts = [prompt for role in ROLES if (prompt := prompt_for(role, model.prompts))]
    if without and prompts:
        found = f"the pooling leaves the tokens of the prompt {prompts[0]!r} out, which an ONNX graph cannot know"
        raise RunError(f"{found}. Train with model.prompt_in_pooling = true, or leave out export.onnx.")


def _in_float32(model: SentenceTransformer) -> SentenceTransformer:
    """The model itself, or a copy where it is in another precision or on an accelerator."""
    if all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in model.parameters()):
        return model
    return copy.deepcopy(model).to("cpu").float()


@contextmanager
def _quiet() -> Iterator[None]:
    """No chatter of the exporters, and the process's logging as it was: the quantisers set up a log of their own."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def _write_tokenizer(model: SentenceTransformer, path: Path) -> None:
    """The model's tokenizer, set to do by itself what the host does when it encodes."""
    tokenizer: Any = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(f"a {type(tokenizer).__name__} has no tokenizer.json; ONNX export wants a fast tokenizer.")
    copied: Any = Tokenizer.from_str(backend.to_str())  # the model's own stays as it is
    if model.max_seq_length:
        copied.enable_truncation(model.max_seq_length, direction=tokenizer.truncation_side)
    copied.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    copied.save(str(path))


class _Graph(nn.Module):
    """What is traced: the host's modules one after the other, then the length 1."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.has_types = "token_type_ids" in model.preprocess(PROBE[:1])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, D)."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.has_types:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        embedding: Tensor = self.model(features)[OUTPUT][:, : self.model.truncate_dim]
        return nn.functional.normalize(embedding, dim=1)


def _write_graph(model: SentenceTransformer, path: Path) -> None:
    # Padded: transformers leaves the mask away where it sees that there is none. Neither size is 1, which would be kept
    # as a constant.
    tokens = torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    sizes = {0: "batch", 1: "length"}
    graph = _Graph(model).eval()
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                graph,
                (tokens, mask),
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=(sizes, sizes),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        name = type(getattr(model[0], "model", model[0])).__name__
        raise RunError(f"a {name} cannot be written as an ONNX graph: {_cause(error)}. Please report this.") from error
    assert program is not None
    program.save(str(path), external_data=_is_large(model))


def _cause(error: BaseException) -> str:
    """The first line of what began it; the exporter's own message is pages of advice."""
    while error.__cause__:
        error = error.__cause__
    return first_line(error)


def _is_large(model: nn.Module) -> bool:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters()) > LARGE


def _write_int8(source: Path, path: Path) -> None:
    """Products with weights in blocks of 8 bits, and the tables of embeddings.

    Dynamic quantisation of products has one scale for all activations of a batch. So large ones spoil the small ones,
    and the vector of a text changes with those beside it; here each token has scales of its own.
    """
    from onnx import load
    from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # type: ignore[import-untyped]

    is_large = source.with_name(f"{source.name}.data").exists()
    half_done = path.with_name("tables.onnx")
    # First, because it also makes products of the form that the second step knows.
    quantize_dynamic(source, half_done, op_types_to_quantize=["Gather"], use_external_data_format=is_large)
    # Level 4 multiplies in 8 bits.
    blocks = MatMulNBitsQuantizer(load(half_done), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    blocks.process()
    blocks.model.save_model_to_file(str(path), is_large)
    for file in path.parent.glob(f"{half_done.name}*"):
        file.unlink()


def _check(model: SentenceTransformer, folder: Path, int8: bool) -> float:
    """The lowest cosine of the vectors in 8 bits.

    Raises:
        RunError: the other graph gives other vectors than the model.
    """
    texts = [*PROBE, " ".join(PROBE), ""]  # the last gives the fewest tokens that there can be
    expected = model.encode(texts, prompt="", normalize_embeddings=True, show_progress_bar=False)
    for batch_size in (1, len(texts)):
        apart = float(np.abs(embed(folder, "model.onnx", texts, batch_size) - expected).max())
        if not apart <= CLOSE:  # nor NaN
            found = f"the vectors of the ONNX graph differ from the model's by {apart:.1g}; wanted {CLOSE} or less"
            raise RunError(f"{folder}: {found}. Please report this.")
    return float((embed(folder, "model_int8.onnx", texts, 1) * expected).sum(1).min()) if int8 else 1.0


def embed(folder: Path, graph: str, texts: list[str], batch_size: int) -> Vectors:
    """(number of texts, D), by what is in the folder alone; no prompt goes before a text."""
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]

    options = SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    session: Any = InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors = []
    for start in range(0, len(texts), batch_size):
        encodings = tokenizer.encode_batch(texts[start : start + batch_size])
        columns = [[encoding.ids for encoding in encodings], [encoding.attention_mask for encoding in encodings]]
        vectors += session.run([OUTPUT], dict(zip(INPUTS, map(np.array, columns), strict=True)))
    return np.concatenate(vectors)
