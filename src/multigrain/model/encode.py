"""Encode texts to vectors with a progress bar, each distinct text once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multigrain.config import Precision
from multigrain.model.prompted_batches import prompted_batches
from multigrain.model.roles import Role, Vectors, prompt_for, query_prompt
from multigrain.model.vector_file import VectorFile, key_of
from multigrain.terminal import meter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from multigrain.model.gpu_pool import Pool

BATCH_SIZE = 32
BATCHES_PER_REPORT = 8
"""Number of batches per device between two reports of progress."""
PORTION = 4 * BATCHES_PER_REPORT * BATCH_SIZE
"""Number of texts whose vectors are written to the file at once."""


def encode(model: "SentenceTransformer", texts: Sequence[str], role: Role, description: str) -> Vectors:
    """Return (number of texts, dimension) vectors of length 1, encoded with the model's prompt for the role."""
    return ModelEncoder(model, description)(texts, role)


class ModelEncoder:
    """Encodes texts with a model that is in memory, without storing vectors.

    Args:
        model: the model.
        description: the label of the progress bar.
    """

    def __init__(self, model: "SentenceTransformer", description: str) -> None:
        self._model, self._description = model, description

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return (number of texts, dimension) vectors of length 1, encoded with the model's prompt for the role."""
        with meter(self._description, len(texts)) as progress:
            return encode_by_length(self._model, texts, prompt_for(role, self._model.prompts), role, progress.advance)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
        """Return the vectors of queries, each with its own instruction if the model was trained with instructions."""
        prompts = [query_prompt(self._model.prompts, instruction) for instruction in instructions]
        with meter(self._description, len(texts)) as progress:
            return encode_prompted(self._model, texts, prompts, "query", progress.advance)


def encode_prompted(
    model: "SentenceTransformer",
    texts: Sequence[str],
    prompts: Sequence[str],
    role: Role,
    report: Callable[[int], object],
    pool: "Pool | None" = None,
) -> Vectors:
    """Encode texts as `encode_by_length` does, but each with its own prompt."""
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    for batch in prompted_batches(model, texts, prompts):
        vectors[batch.places] = encode_by_length(model, batch.texts, batch.prompt, role, report, pool=pool)
    return vectors


def encode_by_length(
    model: "SentenceTransformer",
    texts: Sequence[str],
    prompt: str,
    role: Role | None,
    report: Callable[[int], object],
    batch_size: int = BATCH_SIZE,
    pool: "Pool | None" = None,
) -> Vectors:
    """Encode texts sorted by length, so that batches have little padding.

    Args:
        model: the model.
        texts: the texts to encode.
        prompt: the prompt put before each text.
        role: the role of the texts. With a role, vectors are scaled to length 1; with None, they are left unscaled.
        report: called repeatedly with the number of texts encoded since the last call.
        batch_size: number of texts in a batch.
        pool: the pool of several GPUs, which encode one batch each in turn.

    Returns:
        (number of texts, dimension), in the order of `texts`.
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
    """An encoder that stores vectors in a file, so that no stage encodes a text again.

    New texts are encoded and stored in portions, in order. A kill -9 loses at most one portion, and the next process
    makes the same portions, with the same vectors to the last bit (different padding would change the last bits). The
    file is opened, and the model loaded, on first use. If there are several GPUs, they all encode inputs larger than a
    portion.

    A text is stored once per prompt: a query with two instructions has two vectors, and a model without prompts stores
    a text once for both roles.

    Args:
        load: loads the model.
        model_id: an identifier of the model, without its prompts and precision.
        path: the file (`multigrain.model.vector_file`).
        description: the label of the progress bar.
        prompts: the model's prompts, so that they are known before loading; None if they are not.
        precision: the precision of matrix products.
        setting: the setting of the precision, for messages.
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
        """Return (number of texts, dimension) vectors of length 1, in order; encode those not stored yet."""
        return self._found(texts, [prompt_for(role, self._known_prompts)] * len(texts), role)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
        """Return the vectors of queries, each with its own instruction if the model was trained with instructions."""
        prompts = self._known_prompts
        return self._found(texts, [query_prompt(prompts, instruction) for instruction in instructions], "query")

    def unkept(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        """Encode texts as a call does, without storing the vectors; for texts that are needed only once."""
        prompts = self._known_prompts
        prompt = query_prompt(prompts, instruction) if role == "query" else prompt_for(role, prompts)
        return self._encoded(texts, [prompt] * len(texts), role, _unreported)

    def _found(self, texts: Sequence[str], prompts: Sequence[str], role: Role) -> Vectors:
        keys = [key_of(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
        rows = self._file.rows_of(keys)
        if (rows < 0).any():
            places = np.flatnonzero(rows < 0).tolist()
            missing = {keys[place]: (texts[place], prompts[place]) for place in places}
            self._encode(missing, role, is_large=len(texts) > PORTION)
            rows = self._file.rows_of(keys)
        return _unit(self._file.read(rows))

    @cached_property
    def precision(self) -> Precision:
        """The precision of matrix products on this machine, `bf16` or `fp32`; part of the file's model identifier."""
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

    @property
    def _known_prompts(self) -> Mapping[str, str | None]:
        return self._model.prompts if self._prompts is None else self._prompts

    def _encode(self, missing: dict[bytes, tuple[str, str]], role: Role, is_large: bool) -> None:
        if is_large and self._pool is None:
            from multigrain.model.gpu_pool import start_pool

            self._pool = start_pool(self._model, self.precision, owner=self)
        new = iter(missing.items())
        with meter(self._description, len(missing)) as progress:
            while portion := dict(islice(new, PORTION)):
                texts, prompts = zip(*portion.values(), strict=True)
                self._file.append(list(portion), self._encoded(texts, prompts, role, progress.advance))

    def _encoded(
        self, texts: Sequence[str], prompts: Sequence[str], role: Role, report: Callable[[int], object]
    ) -> Vectors:
        with self._matrix_products():
            return encode_prompted(self._model, texts, prompts, role, report, pool=self._pool)

    def _matrix_products(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        from multigrain.model.precision import matrix_products

        return matrix_products(self._model.device, self.precision)


def _unreported(_encoded: int) -> None: ...


def _unit(vectors: Vectors) -> Vectors:
    """Scale vectors (n, d) to length 1 in place, because rounding to float16 changes their length by up to 1e-4."""
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return vectors
