"""Write the files of an ONNX folder: the tokenizer, the graph, and the 8-bit graph; see `multigrain.export.onnx`.

Letters: B texts, n tokens, D dimensions of the embedding.
"""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn

from multigrain.errors import RunError, first_line

INPUTS = ("input_ids", "attention_mask")
"""Names of the graph's inputs, both (B, n)."""
OUTPUT = "sentence_embedding"
"""Name of the graph's output, (B, D)."""
LARGE = 1.5e9
"""Bytes of weights above which they go to a separate file: a single-file graph is limited to 2 GiB."""
BLOCK = 32
"""Number of weights, or of activations of a token, that share a scale in 8 bits."""


def write_tokenizer(model: SentenceTransformer, path: Path) -> None:
    """Write the model's tokenizer, with truncation and padding set as sentence-transformers applies them.

    Raises:
        RunError: the tokenizer is not a fast one (of the package tokenizers).
    """
    tokenizer: Any = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(f"a {type(tokenizer).__name__} has no tokenizer.json; ONNX export needs a fast tokenizer.")
    copied: Any = Tokenizer.from_str(backend.to_str())  # the model's own tokenizer stays unchanged
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
    """The module to trace: all modules of the model in order, then normalization to length 1."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.has_types = "token_type_ids" in model.preprocess(["A short text."])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed tokens (B, n), with a mask of the same shape, into (B, D)."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.has_types:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        embedding: Tensor = self.model(features)[OUTPUT][:, : self.model.truncate_dim]
        return nn.functional.normalize(embedding, dim=1)


def write_graph(model: SentenceTransformer, path: Path) -> None:
    """Write the model as one graph, including pooling and normalization.

    Raises:
        RunError: the exporter does not support the model.
    """
    # With padding, because transformers drops a mask without padding. Neither size is 1, which the exporter would keep
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
    """Return the first line of the root cause; the exporter's own message is pages of advice."""
    while error.__cause__:
        error = error.__cause__
    return first_line(error)


def _is_large(model: nn.Module) -> bool:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters()) > LARGE


def write_int8(source: Path, path: Path) -> None:
    """Write a graph in 8 bits: its matrix products, with block-wise weights, and its embedding tables.

    Ordinary dynamic quantization uses one scale for all activations of a batch. Large activations then spoil small
    ones, and the vector of a text depends on the rest of its batch. Here each token has its own scales.
    """
    from onnx import load
    from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # type: ignore[import-untyped]

    is_large = source.with_name(f"{source.name}.data").exists()
    half_done = path.with_name("tables.onnx")
    # First, because it also rewrites products into a form that the second step supports.
    quantize_dynamic(source, half_done, op_types_to_quantize=["Gather"], use_external_data_format=is_large)
    # Level 4 multiplies in 8 bits.
    blocks = MatMulNBitsQuantizer(load(half_done), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    blocks.process()
    blocks.model.save_model_to_file(str(path), is_large)
    for file in path.parent.glob(f"{half_done.name}*"):
        file.unlink()
