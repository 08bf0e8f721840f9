"""Prompts that a model brings, and those of the model that is trained from it. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from multigrain.config import ModelSection
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, folder_of, is_gguf
from multigrain.model.locate import embedded_encoder
from multigrain.model.roles import ROLES, prompt_for, with_prompts
from multigrain.model.saved_settings import SENTENCE_TRANSFORMERS_FILE


def prompts_of(name: str) -> dict[str, str] | None:
    """Read the prompts that a model brings, by name, without loading it; None where they cannot be known before.

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
    except (OSError, ValueError, AttributeError):  # loading the model will say what is wrong
        return None


def prompts_to_train(section: ModelSection, base: Mapping[str, str | None]) -> dict[str, str]:
    """Return the prompts of the model that is built, by name: an instruction takes the place of all that the base has.

    Args:
        section: the model that is asked for.
        base: the prompts of its base.
    """
    if section.instruction is None:
        prompts = with_prompts(base, section.query_prompt, section.document_prompt)
        named = {name: prompt for name, prompt in prompts.items() if prompt}
        return {**named, **{role: prompt_for(role, prompts) for role in ROLES}}
    return {"query": f"Instruct: {section.instruction}\nQuery: ", "document": ""}


def _is_settled(folder: Path) -> bool:
    """Tell whether it is settled that there is a file of prompts, or none: the hub's cache is filled bit by bit."""
    if folder.parent.name != "snapshots":
        return True
    absent = folder.parent.with_name(".no_exist") / folder.name / SENTENCE_TRANSFORMERS_FILE
    return (folder / SENTENCE_TRANSFORMERS_FILE).is_file() or absent.is_file()
