"""Adapter from a model to the package mteb: encoder, similarities and the model's metadata.

Neither torch nor mteb is imported before a model is used.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.model.encode import encode_by_length
from multigrain.model.roles import Role, Vectors, prompt_for, query_prompt, template_of

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, PromptType
    from sentence_transformers import SentenceTransformer


class Encoder:
    """A model that follows mteb's `EncoderProtocol`.

    Args:
        model: encodes the texts.
        source: the folder or hub name that the model comes from.
        instructions: instructions in place of mteb's own, by the name of the task. They are used, as are mteb's, if
            the model was trained with instructions.
    """

    def __init__(
        self, model: "SentenceTransformer", source: str, instructions: Mapping[str, str] | None = None
    ) -> None:
        self.model = model
        self._instructions = dict(instructions or {}) if template_of(model.prompts) else {}
        self.mteb_model_meta = _meta_of(model, source, self._instructions)
        self.report: Callable[[int], object] = _ignore

    def encode(
        self,
        inputs: Iterable[Mapping[str, list[str]]],
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: "PromptType | None" = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,  # noqa: ARG002
    ) -> Vectors:
        """Return the vectors of texts, (number of texts, dimension); vectors of queries and documents have length 1.

        Other vectors are not normalized, because classifiers and clusterings are fitted to them.

        Args:
            inputs: batches of texts, in mteb's form.
            task_metadata: determines the prompt of texts that are neither queries nor documents and, for a model
                trained with instructions, that of queries.
            hf_split: ignored.
            hf_subset: ignored.
            prompt_type: query, document or neither.
            batch_size: number of texts encoded at once.
            show_progress_bar: ignored; progress goes to `report`.
        """
        role: Role | None = prompt_type.value if prompt_type else None
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self._prompt(task_metadata, role)
        return encode_by_length(self.model, texts, prompt, role=role, report=self.report, batch_size=batch_size)

    def _prompt(self, task: "TaskMetadata", role: Role | None) -> str:
        """Return the prompt of a text; without a role, the text is neither query nor document."""
        prompts = self.model.prompts
        if role == "document" or (role == "query" and not template_of(prompts)):
            return prompt_for(role, prompts)
        names = (task.name, task.type, self.model.default_prompt_name) if role is None else ()
        own = (prompts.get(name) for name in names if name is not None)
        if (prompt := next((prompt for prompt in own if prompt is not None), None)) is not None:
            return prompt
        return query_prompt(prompts, self._instruction(task)) if template_of(prompts) else ""

    def _instruction(self, task: "TaskMetadata") -> str:
        """Return the instruction of a task: the given one, mteb's own, or mteb's for all tasks of this kind."""
        from mteb.abstasks.abstask import get_abstask_prompt

        own = task.prompt.get("query") if isinstance(task.prompt, dict) else task.prompt
        return self._instructions.get(task.name) or own or get_abstask_prompt(task.name)

    def similarity(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """Return the cosines of each vector with each other one: (A, d) and (B, d) to (A, B)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """Return the cosines of vectors pair by pair: (A, d) and (A, d) to (A,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _ignore(texts: int) -> None:
    """Report nothing: mteb's own runner does not show this progress."""


def load(folder: Path, name: str, revision: str | None = None, device: str | None = None) -> Encoder:  # noqa: ARG001
    """Load a model for mteb, which passes the name and the revision that it already knows."""
    from multigrain.model.load import load_model

    model = load_model(folder)
    return Encoder(model if device is None else model.to(device), str(folder))


def _meta_of(model: "SentenceTransformer", source: str, instructions: Mapping[str, str]) -> "ModelMeta":
    """Describe a model to mteb, which finds earlier results of the model by its name and revision.

    With other instructions, it is another revision.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    parameters = sum(parameter.numel() for parameter in model.parameters())
    known = {
        "name": _name_of(source),
        "revision": _digest_of(model, instructions),
        "n_parameters": parameters,
        "max_tokens": model.max_seq_length,
        "embed_dim": model.get_embedding_dimension(),
        "framework": ["Sentence Transformers", "PyTorch"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": any(model.prompts.values()),
    }
    return ModelMeta.create_empty(known)


def source_of(model: "SentenceTransformer") -> str:
    """Return the folder or hub name that a model was loaded from, if the model records it."""
    return str(getattr(model.transformers_model, "name_or_path", "") or "unnamed")


def _name_of(source: str) -> str:
    """Return the OWNER/NAME that mteb requires: the hub name, or `multigrain/` and the name of the run or folder.

    >>> _name_of("intfloat/e5-small"), _name_of("/data/runs/x/training/model")
    ('intfloat/e5-small', 'multigrain/x')
    """
    folder = Path(source)
    if source.count("/") == 1 and not folder.is_absolute() and not folder.exists():
        return source
    own_parts = [part for part in folder.resolve().parts if part not in ("training", "model")]
    return f"multigrain/{own_parts[-1]}"


def _digest_of(model: "SentenceTransformer", instructions: Mapping[str, str]) -> str:
    """Return a digest of the model's weights, and of all settings that change its vectors."""
    import torch

    config = getattr(model.transformers_model, "config", None)
    settings = {} if config is None else config.to_dict()
    unrelated = {"_name_or_path", "transformers_version"}
    settings = {key: value for key, value in settings.items() if key not in unrelated}
    described = [repr(model), model.prompts, model.default_prompt_name, model.max_seq_length, settings]
    if instructions:
        described.append(dict(instructions))
    digest = hashlib.sha256(json.dumps(described, default=str, sort_keys=True).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]
