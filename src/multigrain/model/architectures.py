"""Which architectures transformers knows, read from its source: to import it takes seconds, and torch."""

import importlib.util
import re
from functools import cache
from pathlib import Path


def is_known(kind: str) -> bool:
    """Whether a model of this `model_type` can be loaded without code of its own; yes where nobody can tell."""
    known = _listed("auto_mappings.py", "CONFIG_MAPPING_NAMES") | _listed("modeling_auto.py", "MODEL_MAPPING_NAMES")
    return not known or kind in known


def is_decoder(kind: str) -> bool:
    """Whether it was made to write, as `multigrain.model.eos.is_decoder` says of a loaded one."""
    writes, fills = (_listed("modeling_auto.py", f"MODEL_FOR_{task}_LM_MAPPING_NAMES") for task in ("CAUSAL", "MASKED"))
    return kind in writes and kind not in fills


def is_class(name: str) -> bool:
    """Whether transformers has a model's class of this name itself; yes where nobody can tell."""
    source = _source("modeling_auto.py")
    return not source or f'"{name}"' in source


@cache
def _source(file: str) -> str:
    """A file of transformers.models.auto; nothing where there is none."""
    package = importlib.util.find_spec("transformers")
    try:
        return Path(str(package and package.origin)).with_name("models").joinpath("auto", file).read_text("utf-8")
    except OSError:
        return ""


@cache
def _listed(file: str, mapping: str) -> frozenset[str]:
    """The keys of a mapping in a file of transformers.models.auto."""
    block = re.search(rf"^{mapping} = OrderedDict\(\n(.*?)^\)", _source(file), re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r'\(\s*"([^"]+)",', block[1])) if block else frozenset()
