"""Texts to vectors, with progress, each distinct text once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multigrain.config import Precision
from multigrain.model.roles import Role, Vectors, prompt_for
from multigrain.model.vector_file import VectorFile, key_of
from multigrain.terminal import meter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from multigrain.model.gpu_pool import Pool

BATCH_SIZE = 32
BATCHES_PER_REPORT = 8
"""Batches between two reports of progress, for each device."""
PORTION = 4 * BATCHES_PER_REPORT * BATCH_SIZE
"""Texts whose vectors are written to the file at once."""


def encode(model: "SentenceTransformer", texts: Sequence[str], role: Role, description: str) -> Vectors:
    """Encode texts in one role, with the model's prompt for it: (number of texts, dimension) vectors of length 1."""
    with meter(description, len(texts)) as progress:
        return encode_by_length(model, texts, prompt_for(role, model.prompts), role, progress.advance)


def encode_by_length(
    model: "SentenceTransformer",
    texts: Sequence[str],
    prompt: str,
    role: Role | None,
    report: Callable[[int], object],
    batch_size: int = BATCH_SIZE,
    pool: "Pool | None" = None,
) -> Vectors:
    """Encode texts sorted by length, so that a batch holds little padding.

    Args:
        model: encodes them.
        texts: what is encoded.
        prompt: goes before each of them.
        role: of the texts, if they have one; then the vectors have length 1, else they are as the model gives them.
        report: called now and then with the number of texts encoded since the last call.
        batch_size: texts that are encoded at once.
        pool: the GPUs that encode, one batch each in turn, where there are several.

    Returns:
        (number of texts, dimension), in the order of the texts as they were given.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    step = BATCHES_PER_REPORT * batch_size * (len(pool["processes"]) if pool else 1)
    for start in range(0, len(order), step):
        chunk = order[start : start + step]
        vectors[chunk] = model.encode(
            [texts[index] for index in chunk],
            prompt=prompt,
            task=role,
            batch_size=batch_size,
            normalize_embeddings=role is not None,
            show_progress_bar=False,
            convert_to_numpy=True,
            pool=pool,
            chunk_size=batch_size if pool else None,
        )
        report(len(chunk))
    return vectors


class CachedEncoder:
    """Vectors of texts, kept in a file, so that no stage encodes what an earlier one has.

    What is new is encoded and kept in portions, in the order of the texts. So a kill -9 costs at most a portion, and
    whoever goes on makes the same portions, and the same vectors to the last bit (padding moves the last bits).
    The file is opened, and the model loaded, when it is first needed. Where there are several GPUs, all of them encode
    what is more than a portion.

    A text is kept once for each prompt that it is encoded with: where a model has none, as query and document alike.

    Args:
        load: gives the model.
        model_id: whatever tells this model from others, but for its prompts and its precision.
        path: the file (`multigrain.model.vector_file`).
        description: what the progress bar says.
        prompts: the model's, so that it need not be loaded for them; None where nobody knows them before.
        precision: of the matrix products.
        setting: the key that gives the precision, for messages.
    """

    def __init__(
        self,
        load: "Callable[[], SentenceTransformer]",
        model_id: str,
        path: Path,
        description: str,
        prompts: Mapping[str, str | None] | None = None,
        precision: Precision = "fp32",
        setting: str = "evaluation.precision",
    ) -> None:
        self._load, self._description, self._prompts = load, description, prompts
        self._wanted, self._setting = precision, setting
        self._path, self._model_id = path, model_id
        self._pool: Pool | None = None

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return (number of texts, dimension) vectors of length 1, in the order of the texts; encode those not kept."""
        prompt = self._prompt(role)
        keys = [key_of(text, prompt) for text in texts]
        rows = self._file.rows_of(keys)
        if (rows < 0).any():
            missing = {keys[place]: texts[place] for place in np.flatnonzero(rows < 0).tolist()}
            self._encode(missing, role, is_large=len(texts) > PORTION)
            rows = self._file.rows_of(keys)
        return _unit(self._file.read(rows))

    def unkept(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return vectors as a call does, but of texts that nobody will ask for again: they are not kept."""
        return self._encoded(texts, role, _unreported)

    @cached_property
    def precision(self) -> Precision:
        """The precision of the matrix products on this machine, `bf16` or `fp32`; part of what the file is kept by."""
        if self._wanted == "fp32":
            return "fp32"
        from multigrain.model.precision import resolve

        return resolve(self._wanted, self._setting)

    @cached_property
    def _file(self) -> VectorFile:
        return VectorFile(self._path, f"{self._model_id}, {self.precision}")

    @cached_property
    def _model(self) -> "SentenceTransformer":
        return self._load()

    def _prompt(self, role: Role) -> str:
        return prompt_for(role, self._model.prompts if self._prompts is None else self._prompts)

    def _encode(self, missing: dict[bytes, str], role: Role, is_large: bool) -> None:
        if is_large and self._pool is None:
            from multigrain.model.gpu_pool import start_pool

            self._pool = start_pool(self._model, self.precision, owner=self)
        new = iter(missing.items())
        with meter(self._description, len(missing)) as progress:
            while portion := dict(islice(new, PORTION)):
                vectors = self._encoded(list(portion.values()), role, progress.advance)
                self._file.append(list(portion), vectors)

    def _encoded(self, texts: Sequence[str], role: Role, report: Callable[[int], object]) -> Vectors:
        with self._matrix_products():
            return encode_by_length(self._model, texts, self._prompt(role), role, report, pool=self._pool)

    def _matrix_products(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        from multigrain.model.precision import matrix_products

        return matrix_products(self._model.device, self.precision)


def _unreported(_encoded: int) -> None: ...


def _unit(vectors: Vectors) -> Vectors:
    """Scale vectors, (n, d), to length 1 in place: rounded to float16 they are up to 1e-4 longer or shorter."""
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return vectors
