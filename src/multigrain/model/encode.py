"""Texts to vectors, with progress, each distinct text once."""

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from sentence_transformers import SentenceTransformer

from multigrain.jsonl import write_atomic
from multigrain.progress import meter
from multigrain.vectors import Vectors

BATCH = 32
CHUNK = 8 * BATCH
"""Texts between two steps of the progress bar."""


def encode(model: SentenceTransformer, texts: Sequence[str], description: str) -> Vectors:
    """(number of texts, dimension) vectors of length 1, in the order of the texts.

    Texts are sorted by length first, so that a batch holds little padding.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    with meter(description, len(texts)) as progress:
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

    The model is loaded when it is first needed. The file belongs to `model_id`; one of another model is
    started anew.

    Args:
        load: gives the model.
        model_id: whatever tells this model from others.
        path: the `.npz` file.
        description: what the progress bar says.
    """

    def __init__(self, load: Callable[[], SentenceTransformer], model_id: str, path: Path, description: str) -> None:
        self._load, self._model_id, self._path, self._description = load, model_id, path, description
        self._model: SentenceTransformer | None = None
        self._vectors: dict[bytes, Vectors] = self._read()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(number of texts, dimension) vectors of length 1, in the order of the texts."""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if missing:
            self._model = self._model or self._load()
            new = encode(self._model, list(missing.values()), self._description)
            self._vectors.update(zip(missing, new, strict=True))
            with suppress(OSError):  # a run that may be read but not written can still be searched
                self._write()
        return np.stack([self._vectors[key] for key in keys])

    def _read(self) -> dict[bytes, Vectors]:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                if str(file["model_id"]) != self._model_id:
                    return {}
                return {bytes(key): vector for key, vector in zip(file["keys"], file["vectors"], strict=True)}
        except (OSError, ValueError, KeyError, BadZipFile, EOFError):
            return {}

    def _write(self) -> None:
        buffer = io.BytesIO()
        keys = np.frombuffer(b"".join(self._vectors), dtype=np.uint8).reshape(len(self._vectors), -1)
        np.savez(buffer, model_id=np.array(self._model_id), keys=keys, vectors=np.stack(list(self._vectors.values())))
        write_atomic(self._path, buffer.getvalue())


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
