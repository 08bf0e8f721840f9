"""multigrain: better text embeddings for your own data, trained on negatives at several grades of similarity.

Public names are imported on first use, so `import multigrain` itself loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from multigrain.version import __version__ as __version__

_HOMES = {
    "AnchorPooling": "model.pooling",
    "Config": "config",
    "ConfigError": "errors",
    "Curriculum": "training.curriculum",
    "DataError": "errors",
    "Document": "records",
    "GradedTuple": "records",
    "LLMError": "errors",
    "ModelSection": "config",
    "MultigrainError": "errors",
    "Negative": "records",
    "Pair": "records",
    "RunError": "errors",
    "ablate": "experiments.ablate",
    "adapt": "pipeline.verbs",
    "build_model": "model.build",
    "check": "pipeline.check",
    "check_grid": "experiments.ablate",
    "compare_runs": "experiments.compare_runs",
    "dropped": "pipeline.verbs",
    "evaluate": "pipeline.verbs",
    "explain": "model.token_weights",
    "export_data": "pipeline.verbs",
    "export_model": "pipeline.verbs",
    "export_onnx": "export.model_verbs",
    "grade": "pipeline.verbs",
    "load_config": "config",
    "load_model": "model.load",
    "merge_model": "export.model_verbs",
    "run": "pipeline.verbs",
    "search": "pipeline.verbs",
    "synthesize": "pipeline.verbs",
    "train": "pipeline.verbs",
    "tune": "experiments.tune",
    "verify_model": "export.model_verbs",
}

__all__ = [
    "AnchorPooling",
    "Config",
    "ConfigError",
    "Curriculum",
    "DataError",
    "Document",
    "GradedTuple",
    "LLMError",
    "ModelSection",
    "MultigrainError",
    "Negative",
    "Pair",
    "RunError",
    "ablate",
    "adapt",
    "build_model",
    "check",
    "check_grid",
    "compare_runs",
    "dropped",
    "evaluate",
    "explain",
    "export_data",
    "export_model",
    "export_onnx",
    "grade",
    "load_config",
    "load_model",
    "merge_model",
    "run",
    "search",
    "synthesize",
    "train",
    "tune",
    "verify_model",
]

if TYPE_CHECKING:  # the same names for type checkers and editors
    from multigrain.config import Config, ModelSection, load_config
    from multigrain.errors import ConfigError, DataError, LLMError, MultigrainError, RunError
    from multigrain.experiments.ablate import ablate, check_grid
    from multigrain.experiments.compare_runs import compare_runs
    from multigrain.experiments.tune import tune
    from multigrain.export.model_verbs import export_onnx, merge_model, verify_model
    from multigrain.model.build import build_model
    from multigrain.model.load import load_model
    from multigrain.model.pooling import AnchorPooling
    from multigrain.model.token_weights import explain
    from multigrain.pipeline.check import check
    from multigrain.pipeline.verbs import (
        adapt,
        dropped,
        evaluate,
        export_data,
        export_model,
        grade,
        run,
        search,
        synthesize,
        train,
    )
    from multigrain.records import Document, GradedTuple, Negative, Pair
    from multigrain.training.curriculum import Curriculum


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'multigrain' has no attribute {name!r}")
    return getattr(import_module(f"multigrain.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
