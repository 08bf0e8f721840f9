"""Packages that only some settings need, by the name under which pip installs them with multigrain."""

import importlib.util

from multigrain.errors import RunError

EXTRAS = {
    "embedded": ("gguf",),
    "mteb": ("mteb",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "plots": ("matplotlib",),
    "qlora": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def require_extra(name: str) -> None:
    """Make sure that the packages of an extra are installed.

    Raises:
        RunError: one is not.
    """
    if missing := [package for package in EXTRAS[name] if importlib.util.find_spec(package) is None]:
        raise RunError(f'{", ".join(missing)}: not installed. Run: pip install "multigrain[{name}]"')
