"""Prompts of a base model, and of the model trained from it. Does not import torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from multigrain.config import INSTRUCTION, ModelSection
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, folder_of, is_gguf
from multigrain.model.locate import embedded_encoder
from multigrain.model.roles import ROLES, TEMPLATE, prompt_for, with_prompts
from multigrain.model.saved_settings import SENTENCE_TRANSFORMERS_FILE


def prompts_of(name: str) -> dict[str, str] | None:
    """Read a model's prompts, by name, without loading it; return None if loading is needed to know them.

    Raises:
        RunError: the embedded encoder is not installed.
    """
    if name == EMBEDDED_LLM or is_gguf(name):
        return {}
    folder = Path(embedded_encoder()) if name == EMBEDDED else folder_of(name)
    if folder is None or not _is_settled(folder):
        return None
    path = folder / SENTENCE_TRANSFORMERS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {key: prompt for key, prompt in (settings.get("prompts") or {}).items() if prompt}
    except (OSError, ValueError, AttributeError):  # loading the model reports it
        return None


def prompts_to_train(section: ModelSection, base: Mapping[str, str | None]) -> dict[str, str]:
    """Return the prompts of the model to train, by name; an instruction replaces all prompts of the base.

    A model with an instruction also keeps the prompt around it, for queries that have another one.

    Args:
        section: the model settings.
        base: the prompts of the base.
    """
    if section.instruction is None:
        prompts = with_prompts(base, section.query_prompt, section.document_prompt)
        named = {name: prompt for name, prompt in prompts.items() if prompt}
        return {**named, **{role: prompt_for(role, prompts) for role in ROLES}}
    template = section.query_template
    assert template is not None  # checked by the section
    query = template.replace(INSTRUCTION, section.instruction)
    return {"query": query, "document": section.document_prompt or "", TEMPLATE: template}


def _is_settled(folder: Path) -> bool:
    """Return whether the folder shows if there are prompts; the hub's cache may not have fetched their file yet."""
    if folder.parent.name != "snapshots":
        return True
    absent = folder.parent.with_name(".no_exist") / folder.name / SENTENCE_TRANSFORMERS_FILE
    return (folder / SENTENCE_TRANSFORMERS_FILE).is_file() or absent.is_file()
