"""The metadata at the head of a model card: what model hubs show and search by."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, is_gguf
from multigrain.model.locate import find_base

HUB_NAMES = {
    EMBEDDED: "sentence-transformers/all-MiniLM-L6-v2",
    EMBEDDED_LLM: "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""The names on the hub of the models that multigrain brings."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "multigrain"]
TASK_TYPES = {"sts:": "semantic-similarity", "graded:": "reranking", "mteb:": "sentence-similarity"}
"""Task types by the beginning of a task's name; all others are searches. Words as in sentence-transformers' cards."""
METRIC_TYPES = {
    "nDCG@10": "cosine_ndcg@10",
    "MRR@10": "cosine_mrr@10",
    "Recall@100": "cosine_recall@100",
    "Spearman": "spearman_cosine",
}
"""The names of our metrics on the hub."""


def card_metadata(config: Config, summary: dict[str, Any], languages: Sequence[str]) -> str:
    """Return the YAML at the head of the card, without the lines of dashes.

    Args:
        config: the run.
        summary: its figures.
        languages: of the positives, as ISO 639-1 codes.
    """
    from huggingface_hub import ModelCardData

    of_base = front_matter(config.model.base)
    licence = of_base.get("license")
    names_of_licence = ("license_name", "license_link") if licence == "other" else ()
    more: dict[str, Any] = {key: of_base.get(key) for key in names_of_licence}
    data = ModelCardData(
        base_model=hub_name(config.model.base),
        language=list(languages) or None,
        library_name="sentence-transformers",
        license=licence if isinstance(licence, str) else None,
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        model_name=config.name,
        eval_results=_results(summary) or None,
        **more,
    )
    text: str = data.to_yaml(line_break="\n")
    return text.strip()


def _results(summary: dict[str, Any]) -> list[Any]:
    """Return the figures of the trained model as hubs keep them."""
    from huggingface_hub import EvalResult

    results: list[Any] = []
    for task, metrics in summary["difference"].items():
        for metric in metrics:
            if metric.endswith((" bm25", " hybrid")):
                continue  # not of the model alone
            result = EvalResult(
                task_type=_task_type(task),
                dataset_type=re.sub(r"[^\w.]+", "-", shown_source(task)),
                dataset_name=shown_source(task),
                metric_type=METRIC_TYPES.get(metric, metric.lower().replace(" ", "_")),
                metric_name=metric,
                metric_value=round(summary["trained"][task][metric], 4),
            )
            results.append(result)
    return results


def _task_type(task: str) -> str:
    for start, kind in TASK_TYPES.items():
        if task.startswith(start):
            return kind
    return "information-retrieval"


def hub_name(base: str) -> str | None:
    """Return what the model hub calls a base; None where it is a file or folder of somebody's.

    >>> hub_name("intfloat/e5-small"), hub_name("/models/mine")
    ('intfloat/e5-small', None)
    """
    if base in HUB_NAMES:
        return HUB_NAMES[base]
    is_file = Path(base).exists() or is_gguf(base)
    return base if not is_file and HUB_NAME.fullmatch(base) else None


def front_matter(base: str) -> dict[str, Any]:
    """Return what the base's own card says for machines; nothing where it has none, or it is not on this disk."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    if base == EMBEDDED_LLM:  # its package has the weights alone
        return {"license": "apache-2.0"}
    folder = Path(find_base(base, "model.base") if base == EMBEDDED else base)
    if folder.is_dir() or hub_name(base) is None:
        card: Any = folder / "README.md"
    else:
        card = try_to_load_from_cache(base, "README.md")
    try:
        text = Path(card).read_text(encoding="utf-8") if isinstance(card, str | Path) else ""
        return dict(vars(ModelCard(text, ignore_metadata_errors=True).data))
    except Exception:  # there is none, or it is damaged in one of many ways: no reason to write no model
        return {}


def shown_source(source: str) -> str:
    """Return a source without the folders that lead to it: a published card tells nothing of the author's disk.

    >>> shown_source("/home/me/pairs.jsonl")
    'pairs.jsonl'
    """
    return source.rsplit("/", 1)[-1]
