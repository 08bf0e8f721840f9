"""Architectures that transformers supports, read from its source, because importing it takes seconds and torch."""

import importlib.util
import re
from functools import cache
from pathlib import Path


def is_known(kind: str) -> bool:
    """Return whether a model of this `model_type` can be loaded without its own code; True if that is unknown."""
    known = _listed("auto_mappings.py", "CONFIG_MAPPING_NAMES") | _listed("modeling_auto.py", "MODEL_MAPPING_NAMES")
    return not known or kind in known


def is_decoder(kind: str) -> bool:
    """Return whether a `model_type` is a decoder, by the same rule as `multigrain.model.eos.is_decoder`."""
    writes = _listed("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    fills = _listed("modeling_auto.py", "MODEL_FOR_MASKED_LM_MAPPING_NAMES")
    return kind in writes and kind not in fills


def is_class(name: str) -> bool:
    """Return whether transformers has a model class of this name; True if that is unknown."""
    source = _source("modeling_auto.py")
    return not source or f'"{name}"' in source


@cache
def _source(file: str) -> str:
    """Read a source file of transformers.models.auto; return "" if there is none."""
    package = importlib.util.find_spec("transformers")
    try:
        return Path(str(package and package.origin)).with_name("models").joinpath("auto", file).read_text("utf-8")
    except OSError:
        return ""


@cache
def _listed(file: str, mapping: str) -> frozenset[str]:
    """Return the keys of a mapping in a source file of transformers.models.auto."""
    block = re.search(rf"^{mapping} = OrderedDict\(\n(.*?)^\)", _source(file), re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r'\(\s*"([^"]+)",', block[1])) if block else frozenset()
