"""Export a model as one ONNX graph from token ids to the normalized embedding, with a tokenizer file for the ids.

The exported folder needs neither torch nor multigrain (`examples/onnx_embed.py` reads one):

    model.onnx        input_ids (B, n) and attention_mask (B, n), both int64 -> sentence_embedding (B, D), float32
    model_int8.onnx   the same in 8 bits
    tokenizer.json    truncates texts to the model's length and pads batches
    prompts.json      the prompts for queries and documents

A graph of 2 GB or more has its weights in a separate file, `model.onnx.data`.

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

from multigrain.errors import RunError
from multigrain.export.onnx_graph import INPUTS, OUTPUT, write_graph, write_int8, write_tokenizer
from multigrain.extras import require_extra
from multigrain.files import atomic_folder, write_json
from multigrain.model.adapter import has_adapter, merge
from multigrain.model.anchor_attention import evaluating
from multigrain.model.roles import ROLES, Vectors, prompt_for
from multigrain.terminal import say

CLOSE = 1e-4
"""Largest difference to accept between the vectors of model and graph; other kernels round differently."""
CLOSE_INT8 = 0.99
"""Cosine between the vectors of model and 8-bit graph below which the user is warned."""
PROBE = [
    "A short text.",
    "A man with a hard hat is dancing.",
    "The library opens at nine on weekdays; at weekends, and on public holidays, it stays closed.",
    "How can I find and remove duplicate rows in a table without changing the order of the others?",
    "Shares of the company fell by 7.5 % on Tuesday, after it had said that profits would be lower than expected.",
    "fish",
]


def export_onnx(model: SentenceTransformer, folder: Path, int8: bool = False) -> None:
    """Write the model to `folder` as an ONNX graph that includes pooling and normalization; the model stays unchanged.

    The files are written to a temporary folder, checked, and renamed. The check reads them as a user would, with only
    onnxruntime and tokenizers. In 8 bits, vectors change a little; a warning is printed if they change too much.

    Args:
        model: a model whose first module is a transformer with a fast tokenizer. An adapter is merged.
        folder: the output folder; existing content is replaced.
        int8: also write `model_int8.onnx`, a quarter of the size.

    Raises:
        RunError: a package is not installed, the model cannot be written as one graph, or the graph does not give the
            vectors of the model.
    """
    require_extra("onnx")
    _check_pooling(model)
    say("  writing the graph (a minute for a decoder of 30 layers) ...")
    model = _in_float32(merge(model) if has_adapter(model) else model)
    with atomic_folder(folder) as part, evaluating(model), _quiet():
        write_tokenizer(model, part / "tokenizer.json")
        write_json(part / "prompts.json", {role: prompt_for(role, model.prompts) for role in ROLES})
        write_graph(model, part / "model.onnx")
        if int8:
            write_int8(part / "model.onnx", part / "model_int8.onnx")
        lowest = _check(model, part, int8)
    if lowest < CLOSE_INT8:
        found = f"its vectors have a cosine of {lowest:.3f} to the model's on a probe; wanted {CLOSE_INT8} or more"
        say(f"{folder / 'model_int8.onnx'}: {found}. Evaluate it before you use it, or use model.onnx.")


def _check_pooling(model: SentenceTransformer) -> None:
    """Check that the pooling uses all tokens, because a graph cannot see which of them belong to a prompt.

    Raises:
        RunError: the pooling leaves out the tokens of a prompt.
    """
    without = any(isinstance(module, Pooling) and not module.include_prompt for module in model)
    prompts = [prompt for role in ROLES if (prompt := prompt_for(role, model.prompts))]
    if without and prompts:
        found = f"the pooling leaves out the tokens of the prompt {prompts[0]!r}, which an ONNX graph cannot recognize"
        raise RunError(f"{found}. Train with model.prompt_in_pooling = true, or leave out export.onnx.")


def _in_float32(model: SentenceTransformer) -> SentenceTransformer:
    """Return the model in float32 on the CPU: itself, or a copy if its precision or device differs."""
    if all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in model.parameters()):
        return model
    return copy.deepcopy(model).to("cpu").float()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters within the block, then restore the process's logging, which the quantizers change."""
    root = logging.getLogger()
    disabled = root.manager.disable
    handlers = list(root.handlers)
    level = root.level
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def _check(model: SentenceTransformer, folder: Path, int8: bool) -> float:
    """Compare the vectors of the graphs with the model's; return the lowest cosine of the 8-bit graph.

    Raises:
        RunError: the full-precision graph gives other vectors than the model.
    """
    texts = [*PROBE, " ".join(PROBE), ""]  # the last has the fewest possible tokens
    expected = model.encode(texts, prompt="", normalize_embeddings=True, show_progress_bar=False)
    for batch_size in (1, len(texts)):
        apart = float(np.abs(embed(folder, "model.onnx", texts, batch_size) - expected).max())
        if not apart <= CLOSE:  # also for NaN
            found = f"the vectors of the ONNX graph differ from the model's by {apart:.1g}; wanted {CLOSE} or less"
            raise RunError(f"{folder}: {found}. Please report this.")
    if not int8:
        return 1.0
    cosines = (embed(folder, "model_int8.onnx", texts, batch_size=1) * expected).sum(1)
    return float(cosines.min())


def embed(folder: Path, graph: str, texts: list[str], batch_size: int) -> Vectors:
    """Embed texts with only the files of the folder, without a prompt.

    Args:
        folder: the folder that `export_onnx` wrote.
        graph: the file name of the graph.
        texts: the texts to embed.
        batch_size: number of texts in a batch.

    Returns:
        (number of texts, D) vectors of length 1.
    """
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]

    options = SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    session: Any = InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors = []
    for start in range(0, len(texts), batch_size):
        encodings = tokenizer.encode_batch(texts[start : start + batch_size])
        tokens = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        vectors += session.run([OUTPUT], dict(zip(INPUTS, (tokens, mask), strict=True)))
    return np.concatenate(vectors)
