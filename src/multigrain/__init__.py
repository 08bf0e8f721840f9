"""multigrain: better text embeddings for your own data, from negatives at several grades of similarity.

The public names are resolved when they are first used, so that `import multigrain` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AnchorPooling": "model.pooling",
    "Config": "config",
    "Curriculum": "training.curriculum",
    "GradedTuple": "records",
    "ModelSection": "config",
    "MultigrainError": "errors",
    "Negative": "records",
    "Pair": "records",
    "ablate": "ablation",
    "build_model": "model.build",
    "compare_runs": "evaluation.report",
    "evaluate": "pipeline",
    "explain": "model.token_weights",
    "export_data": "pipeline",
    "export_model": "pipeline",
    "export_onnx": "saved_model",
    "grade": "pipeline",
    "load_config": "config",
    "load_model": "model.load",
    "merge_model": "saved_model",
    "run": "pipeline",
    "search": "pipeline",
    "synthesize": "pipeline",
    "train": "pipeline",
    "verify_model": "saved_model",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605

if TYPE_CHECKING:  # the same for type checkers and editors
    from multigrain.ablation import ablate  # noqa: F401
    from multigrain.config import Config, ModelSection, load_config  # noqa: F401
    from multigrain.errors import MultigrainError  # noqa: F401
    from multigrain.evaluation.report import compare_runs  # noqa: F401
    from multigrain.model.build import build_model  # noqa: F401
    from multigrain.model.load import load_model  # noqa: F401
    from multigrain.model.pooling import AnchorPooling  # noqa: F401
    from multigrain.model.token_weights import explain  # noqa: F401
    from multigrain.pipeline import evaluate, export_data, export_model, grade, run, search, synthesize, train  # noqa: F401
    from multigrain.records import GradedTuple, Negative, Pair  # noqa: F401
    from multigrain.saved_model import export_onnx, merge_model, verify_model  # noqa: F401
    from multigrain.training.curriculum import Curriculum  # noqa: F401


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'multigrain' has no attribute {name!r}")
    return getattr(import_module(f"multigrain.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
