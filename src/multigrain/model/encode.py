"""Encode texts to vectors with a progress bar, each distinct text once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from multigrain.config import Precision
from multigrain.model.engine import LOCAL, Engine, ShardFailed, require_all
from multigrain.model.prompted_batches import prompted_batches
from multigrain.model.roles import Role, Vectors, prompt_for, query_prompt
from multigrain.model.vector_file import StoredVectors, VectorFile, key_of, unit
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


class Portion(NamedTuple):
    """Texts that are encoded together: how they share batches decides the last bits of their vectors."""

    keys: Sequence[bytes]
    """Keys of the vectors (`multigrain.model.vector_file.key_of`)."""
    texts: Sequence[str]
    prompts: Sequence[str]
    role: Role


class PortionEncoder:
    """Encodes portions with a model that is loaded at the first one.

    A copy in another process (by pickle) loads the model again there.

    Args:
        load: loads the model.
        precision: returns the precision of matrix products, `bf16` or `fp32`.
    """

    def __init__(self, load: "Callable[[], SentenceTransformer]", precision: Callable[[], Precision]) -> None:
        self._load, self._precision_of = load, precision
        self._pool: Pool | None = None
        self.report: Callable[[int], object] = unreported
        """Called with the number of texts encoded since the last call."""

    def __call__(self, portion: Portion) -> Vectors:
        """Return vectors of length 1, (number of texts, dimension)."""
        texts, prompts, role = portion.texts, portion.prompts, portion.role
        with self._matrix_products():
            return encode_prompted(self.model, texts, prompts, role, self.report, pool=self._pool)

    def __getstate__(self) -> dict[str, Any]:
        precision = self.precision  # that of the process which plans the work
        return {"_load": self._load, "precision": precision, "_pool": None, "report": unreported}

    @cached_property
    def precision(self) -> Precision:
        """The precision of matrix products."""
        return self._precision_of()

    @cached_property
    def model(self) -> "SentenceTransformer":
        """The model."""
        return self._load()

    def use_all_gpus(self) -> None:
        """Encode on all GPUs of this machine from now on, if there are several."""
        if self._pool is None:
            from multigrain.model.gpu_pool import start_pool

            self._pool = start_pool(self.model, self.precision, owner=self)

    def _matrix_products(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        from multigrain.model.precision import matrix_products

        return matrix_products(self.model.device, self.precision)


def unreported(_encoded: int) -> None:
    """Take a report of progress that nobody sees."""


class CachedEncoder:
    """An encoder that stores vectors in a file, so that no stage encodes a text again.

    New texts are encoded and stored in portions, in order. A kill -9 loses at most one portion, and the next process
    makes the same portions, with the same vectors to the last bit (different padding would change the last bits). The
    file is opened, and the model loaded, on first use. If there are several GPUs, they all encode inputs larger than a
    portion.

    An engine with several processes encodes several portions at once. They are the same portions, because those in
    progress count as stored when the next one is made.

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
        engine: encodes the portions.
    """

    def __init__(  # noqa: PLR0913 (the model, its file, and where it works)
        self,
        load: "Callable[[], SentenceTransformer]",
        model_id: str,
        path: Path,
        description: str,
        prompts: Mapping[str, str | None] | None = None,
        precision: Precision = "fp32",
        setting: str = "evaluation.precision",
        *,
        engine: Engine = LOCAL,
    ) -> None:
        self._description, self._prompts = description, prompts
        self._wanted, self._setting = precision, setting
        self._path, self._model_id = path, model_id
        self._engine = engine
        self._encoder = PortionEncoder(load, self._resolved)
        self._waiting: dict[int, tuple[Portion, Callable[[], Vectors]]] = {}
        self._in_progress: set[bytes] = set()
        self._made = 0
        self._failures: list[ShardFailed] = []

    def __call__(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return (number of texts, dimension) vectors of length 1, in order; encode those not stored yet."""
        return self._found(self._asked(texts, role))

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None]) -> Vectors:
        """Return the vectors of queries, each with its own instruction if the model was trained with instructions."""
        return self._found(self._asked(texts, "query", instructions))

    def request(self, texts: Sequence[str], role: Role, instructions: Sequence[str | None] | None = None) -> None:
        """Start to encode the texts that are not stored yet, as a later call will need them; see `Engine.ahead`."""
        if self._engine.ahead:
            self._start(self._asked(texts, role, instructions))

    def settle(self) -> None:
        """Wait until all requested texts are stored.

        Raises:
            ShardFailed: a portion cannot be encoded; the others are stored.
        """
        self._store(list(self._waiting))
        require_all(self._failures)

    def stored(self, texts: Sequence[str], role: Role) -> StoredVectors:
        """Return a reference to the vectors of texts that are stored; other processes can read it.

        Raises:
            KeyError: a text is not stored.
        """
        return self._file.stored(self._asked(texts, role).keys)

    def unkept(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        """Encode texts as a call does, without storing the vectors; for texts that are needed only once."""
        prompts = self._known_prompts
        prompt = query_prompt(prompts, instruction) if role == "query" else prompt_for(role, prompts)
        return self._encoder(Portion([], texts, [prompt] * len(texts), role))

    def _asked(self, texts: Sequence[str], role: Role, instructions: Sequence[str | None] | None = None) -> Portion:
        known = self._known_prompts
        prompts = [prompt_for(role, known)] * len(texts)
        if instructions is not None:
            prompts = [query_prompt(known, instruction) for instruction in instructions]
        keys = [key_of(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
        return Portion(keys, texts, prompts, role)

    def _found(self, asked: Portion) -> Vectors:
        rows = self._file.rows_of(asked.keys)
        if (rows < 0).any():
            missing = {key for key, row in zip(asked.keys, rows, strict=True) if row < 0}
            if not self._engine.ahead and len(asked.texts) > PORTION:
                self._encoder.use_all_gpus()
            with meter(self._description, len(missing)) as progress:
                self._start(asked, progress.advance)
                needed = [
                    number for number, (portion, _) in self._waiting.items() if missing.intersection(portion.keys)
                ]
                self._store(needed, progress.advance)
            rows = self._file.rows_of(asked.keys)
            if (rows < 0).any():
                self.settle()  # raises
        return unit(self._file.read(rows))

    def _start(self, asked: Portion, report: Callable[[int], object] = unreported) -> None:
        """Start to encode, in portions, the texts that are neither stored nor being encoded."""
        self._encoder.report = report
        missing: dict[bytes, int] = {}
        for place in np.flatnonzero(self._file.rows_of(asked.keys) < 0).tolist():
            if asked.keys[place] not in self._in_progress:
                missing[asked.keys[place]] = place
        new = iter(missing.items())
        while chosen := dict(islice(new, PORTION)):
            texts = [asked.texts[place] for place in chosen.values()]
            prompts = [asked.prompts[place] for place in chosen.values()]
            portion = Portion(list(chosen), texts, prompts, asked.role)
            self._made += 1
            name = f"{self._description}, portion {self._made} ({len(texts)} texts, from {texts[0][:40]!r} on)"
            self._waiting[self._made] = portion, self._engine.submit(self._encoder, portion, name)
            self._in_progress.update(chosen)
            self._store(list(self._waiting)[: max(0, len(self._waiting) - self._engine.ahead)], report)

    def _store(self, numbers: Iterable[int], report: Callable[[int], object] = unreported) -> None:
        """Wait for portions and store them. The texts of a portion that fails are not started again."""
        for number in numbers:
            portion, result = self._waiting[number]
            try:
                self._file.append(portion.keys, result())
                self._in_progress.difference_update(portion.keys)
            except ShardFailed as failure:
                self._failures.append(failure)
            del self._waiting[number]
            if self._engine.ahead:  # otherwise the encoder has reported
                report(len(portion.keys))

    @property
    def precision(self) -> Precision:
        """The precision of matrix products on this machine, `bf16` or `fp32`; part of the file's model identifier."""
        return self._encoder.precision

    def _resolved(self) -> Precision:
        if self._wanted == "fp32":
            return "fp32"
        from multigrain.model.precision import resolve

        return resolve(self._wanted, self._setting)

    @cached_property
    def _file(self) -> VectorFile:
        return VectorFile(self._path, f"{self._model_id}, {self.precision}")

    @property
    def _known_prompts(self) -> Mapping[str, str | None]:
        return self._encoder.model.prompts if self._prompts is None else self._prompts
