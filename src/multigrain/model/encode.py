"""Texts to vectors, with progress, each distinct text once."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multigrain.model.vector_file import VectorFile, key_of
from multigrain.progress import Meter, meter
from multigrain.vectors import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH = 32
CHUNK = 8 * BATCH
"""Texts between two steps of the progress bar."""
PORTION = 4 * CHUNK
"""Texts that are kept at once."""


def encode(model: "SentenceTransformer", texts: Sequence[str], description: str) -> Vectors:
    """(number of texts, dimension) vectors of length 1, in the order of the texts."""
    with meter(description, len(texts)) as progress:
        return _encode(model, texts, progress)


def _encode(model: "SentenceTransformer", texts: Sequence[str], progress: Meter) -> Vectors:
    """Texts are sorted by length first, so that a batch holds little padding."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        vectors[chunk] = model.encode(
            [texts[index] for index in chunk],
            batch_size=BATCH,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        progress.advance(len(chunk))
    return vectors


class CachedEncoder:
    """Vectors of texts, kept in a file, so that no stage encodes what an earlier one has.

    What is new is encoded and kept in portions, in the order of the texts. So a kill -9 costs at most a portion, and
    whoever goes on makes the same portions, and the same vectors to the last bit (padding moves the last bits).
    The model is loaded when it is first needed.

    Args:
        load: gives the model.
        model_id: whatever tells this model from others.
        path: the file (`multigrain.model.vector_file`).
        description: what the progress bar says.
    """

    def __init__(self, load: "Callable[[], SentenceTransformer]", model_id: str, path: Path, description: str) -> None:
        self._load, self._description = load, description
        self._model: SentenceTransformer | None = None
        self._file = VectorFile(path, model_id)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(number of texts, dimension) vectors of length 1, in the order of the texts."""
        keys = [key_of(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._file}
        if missing:
            self._encode(missing)
        return self._file.read(keys)

    def _encode(self, missing: dict[bytes, str]) -> None:
        self._model = self._model or self._load()
        new = iter(missing.items())
        with meter(self._description, len(missing)) as progress:
            while portion := dict(islice(new, PORTION)):
                self._file.append(list(portion), _encode(self._model, list(portion.values()), progress))
