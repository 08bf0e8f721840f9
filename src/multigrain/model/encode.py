"""Texts to vectors, with progress, each distinct text once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multigrain.config import Precision
from multigrain.model.roles import Role, Vectors, prompt_for
from multigrain.model.vector_file import VectorFile, key_of
from multigrain.terminal import Meter, meter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH_SIZE = 32
BATCHES_PER_REPORT = 8
"""Batches between two reports of progress."""
PORTION = 4 * BATCHES_PER_REPORT * BATCH_SIZE
"""Texts whose vectors are written to the file at once."""


def encode(
    model: "SentenceTransformer", texts: Sequence[str], role: Role, description: str, precision: Precision = "fp32"
) -> Vectors:
    """Encode texts in one role, with the model's prompt for it: (number of texts, dimension) vectors of length 1."""
    with meter(description, len(texts)) as progress:
        return _encode(model, texts, role, progress, precision)


def _encode(
    model: "SentenceTransformer", texts: Sequence[str], role: Role, progress: Meter, precision: Precision
) -> Vectors:
    with _matrix_products(model, precision):
        return encode_by_length(model, texts, prompt_for(role, model.prompts), role, progress.advance)


def encode_by_length(
    model: "SentenceTransformer",
    texts: Sequence[str],
    prompt: str,
    role: Role | None,
    report: Callable[[int], object],
    batch_size: int = BATCH_SIZE,
) -> Vectors:
    """Encode texts sorted by length, so that a batch holds little padding.

    Args:
        model: encodes them.
        texts: what is encoded.
        prompt: goes before each of them.
        role: of the texts, if they have one; then the vectors have length 1, else they are as the model gives them.
        report: called now and then with the number of texts encoded since the last call.
        batch_size: texts that are encoded at once.

    Returns:
        (number of texts, dimension), in the order of the texts as they were given.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    for start in range(0, len(order), BATCHES_PER_REPORT * batch_size):
        chunk = order[start : start + BATCHES_PER_REPORT * batch_size]
        vectors[chunk] = model.encode(
            [texts[index] for index in chunk],
            prompt=prompt,
            task=role,
            batch_size=batch_size,
            normalize_embeddings=role is not None,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        report(len(chunk))
    return vectors


def _matrix_products(model: "SentenceTransformer", precision: Precision) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    from multigrain.model.precision import matrix_products

    return matrix_products(model.device, precision)


class CachedEncoder:
    """Vectors of texts, kept in a file, so that no stage encodes what an earlier one has.

    What is new is encoded and kept in portions, in the order of the texts. So a kill -9 costs at most a portion, and
    whoever goes on makes the same portions, and the same vectors to the last bit (padding moves the last bits).
    The model is loaded when it is first needed.

    A text is kept once for each prompt that it is encoded with: where a model has none, as query and document alike.

    Args:
        load: gives the model.
        model_id: whatever tells this model from others, but for its prompts.
        path: the file (`multigrain.model.vector_file`).
        description: what the progress bar says.
        prompts: the model's, so that it need not be loaded for them; None where nobody knows them before.
        precision: of the matrix products.
    """

    def __init__(
        self,
        load: "Callable[[], SentenceTransformer]",
        model_id: str,
        path: Path,
        description: str,
        prompts: Mapping[str, str | None] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self._load, self._description, self._prompts, self._precision = load, description, prompts, precision
        self._file = VectorFile(path, model_id)

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return (number of texts, dimension) vectors of length 1, in the order of the texts; encode those not kept."""
        prompt = prompt_for(role, self._model.prompts if self._prompts is None else self._prompts)
        keys = [key_of(text, prompt) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._file}
        if missing:
            self._encode(missing, role)
        return self._file.read(keys)

    @cached_property
    def _model(self) -> "SentenceTransformer":
        return self._load()

    def _encode(self, missing: dict[bytes, str], role: Role) -> None:
        new = iter(missing.items())
        with meter(self._description, len(missing)) as progress:
            while portion := dict(islice(new, PORTION)):
                vectors = _encode(self._model, list(portion.values()), role, progress, self._precision)
                self._file.append(list(portion), vectors)
