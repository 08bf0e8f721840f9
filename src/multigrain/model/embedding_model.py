"""A SentenceTransformer that knows multigrain's modules, and saves their code with the model."""

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from multigrain.config import Precision
from multigrain.files import write_json
from multigrain.model import anchor_attention, anchor_scores, attention_tiles, pooling
from multigrain.model.chat_template import skip_chat_template
from multigrain.model.older_settings import write_legacy_settings
from multigrain.model.pooling import AnchorPooling, AnchorTransformer
from multigrain.model.precision import matrix_products
from multigrain.model.prompted_batches import PROMPT_LENGTH, has_prompt_lengths

SHIPPED = tuple(Path(str(module.__file__)) for module in (pooling, anchor_attention, anchor_scores, attention_tiles))
"""Source files that a saved model needs to load without multigrain."""


class EmbeddingModel(SentenceTransformer):
    """A SentenceTransformer that loads multigrain's modules without a flag, and saves their code with the model."""

    _module_classes: Mapping[str, type[nn.Module]] = {
        f"{module}.{cls.__name__}": cls
        for cls in (AnchorTransformer, AnchorPooling)
        for module in (cls.__module__, cls.__module__.rpartition(".")[2])
    }

    pool_precision: Precision = "fp32"
    """Precision of matrix products in the processes of a pool, which autocast does not reach."""

    @classmethod
    def _multi_process_worker(cls, target_device: str, model: Any, *queues: Any) -> None:
        """Encode for a pool in the model's precision, until the process that started the pool ends."""
        threading.Thread(target=_end_with_parent, daemon=True).start()
        with matrix_products(torch.device(target_device), model.pool_precision):
            super()._multi_process_worker(target_device, model, *queues)

    @classmethod
    def _load_with_module_classes(
        cls, model_name_or_path: str, module_classes: Mapping[str, type[nn.Module]], **kwargs: Any
    ) -> Self:
        """Load with multigrain's classes among the known ones; the trainer reloads its checkpoints by this method."""
        classes = {**cls._module_classes, **module_classes}
        return super()._load_with_module_classes(model_name_or_path, classes, **kwargs)

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed tokenized texts. If each has a prompt length of its own, `prompt_length` (B,), each is pooled by it."""
        if not has_prompt_lengths(input):
            return super().forward(input, **kwargs)
        lengths = input[PROMPT_LENGTH]
        states = self[0](input)
        vectors: list[Tensor] = []
        rows = [(lengths == length).nonzero().flatten() for length in lengths.unique()]
        for of_length in rows:
            part = {name: _rows_of(value, of_length, len(lengths)) for name, value in states.items()}
            part[PROMPT_LENGTH] = int(lengths[of_length[0]])
            for module in list(self)[1:]:
                part = module(part)
            vectors.append(part["sentence_embedding"])
        return {**states, "sentence_embedding": torch.cat(vectors)[torch.cat(rows).argsort()]}

    def _load_default_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Load a model not saved by sentence-transformers, such as a language model, without its chat template."""
        modules, settings = super()._load_default_modules(*args, **kwargs)
        skip_chat_template(cast(Transformer, next(iter(modules))))
        return modules, settings

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save the model, with the code of multigrain's modules beside `modules.json`, which then names that code.

        A model without such modules is saved in the format of older releases.
        """
        super().save(path, *args, **kwargs)
        listing = Path(path, "modules.json")
        modules = json.loads(listing.read_text(encoding="utf-8"))
        if not any(module["type"] in self._module_classes for module in modules):
            write_legacy_settings(Path(path), self.max_seq_length)
            return
        for module in modules:
            if module["type"] in self._module_classes:
                module["type"] = ".".join(module["type"].split(".")[-2:])
        for file in SHIPPED:
            shutil.copy(file, path)
        write_json(listing, modules)

    def save_pretrained(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save the model, and give its weights the same read permissions as its other files."""
        super().save_pretrained(path, *args, **kwargs)
        mode = Path(path, "modules.json").stat().st_mode
        for file in Path(path).glob("*.safetensors"):
            file.chmod(mode)


def _rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """Return these rows of a feature, if it has as many rows as there are texts."""
    return value[rows] if torch.is_tensor(value) and value.dim() and len(value) == count else value


def _end_with_parent() -> None:
    """End this process when its parent ends, even after a kill -9."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
