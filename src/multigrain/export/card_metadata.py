"""Write the metadata at the top of a model card, which model hubs show and search."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.hub_datasets import HUB
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, is_gguf
from multigrain.model.locate import find_base

HUB_NAMES = {
    EMBEDDED: "sentence-transformers/all-MiniLM-L6-v2",
    EMBEDDED_LLM: "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Hub names of the models embedded in multigrain."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "multigrain"]
TASK_TYPES = {"sts:": "semantic-similarity", "graded:": "reranking", "mteb:": "sentence-similarity"}
"""Task types by prefix of a task's name; all other tasks are searches. Named as in sentence-transformers' cards."""
METRIC_TYPES = {
    "nDCG@10": "cosine_ndcg@10",
    "MRR@10": "cosine_mrr@10",
    "Recall@100": "cosine_recall@100",
    "Spearman": "spearman_cosine",
}
"""Hub names of multigrain's metrics."""


def card_metadata(config: Config, summary: dict[str, Any], languages: Sequence[str]) -> str:
    """Return the YAML at the top of the card, without the lines of dashes.

    Args:
        config: the settings of the run.
        summary: the figures of the run.
        languages: languages of the positives, as ISO 639-1 codes.
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
    """Return the figures of the trained model in the format of hubs."""
    from huggingface_hub import EvalResult

    results: list[Any] = []
    for task, metrics in summary["difference"].items():
        for metric in metrics:
            if metric.endswith((" bm25", " hybrid")):
                continue  # not a result of the model alone
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
    """Return the hub name of a base; None if it is a local file or folder.

    >>> hub_name("intfloat/e5-small"), hub_name("/models/mine")
    ('intfloat/e5-small', None)
    """
    if base in HUB_NAMES:
        return HUB_NAMES[base]
    is_file = Path(base).exists() or is_gguf(base)
    return base if not is_file and HUB_NAME.fullmatch(base) else None


def front_matter(base: str) -> dict[str, Any]:
    """Return the metadata of the base's own card; {} if it has none, or is not on this disk."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    if base == EMBEDDED_LLM:  # its package has only the weights
        return {"license": "apache-2.0"}
    folder = Path(find_base(base, "model.base") if base == EMBEDDED else base)
    if folder.is_dir() or hub_name(base) is None:
        card: Any = folder / "README.md"
    else:
        card = try_to_load_from_cache(base, "README.md")
    try:
        text = Path(card).read_text(encoding="utf-8") if isinstance(card, str | Path) else ""
        return dict(vars(ModelCard(text, ignore_metadata_errors=True).data))
    except Exception:  # a missing or damaged card must not prevent the export
        return {}


def shown_source(source: str) -> str:
    """Return a source without its parent folders, so that a published card does not reveal the author's disk.

    >>> shown_source("/home/me/pairs.jsonl"), shown_source("hf:org/name")
    ('pairs.jsonl', 'hf:org/name')
    """
    return source if source.startswith(HUB) else source.rsplit("/", 1)[-1]
