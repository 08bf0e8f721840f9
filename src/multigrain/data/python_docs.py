"""The embedded default corpus: the documentation of the Python packages that are installed here.

Docstrings are read with `ast`; nothing is imported. The query is a docstring's summary, the positive is
the rest of it without the object's own name, so that the name cannot give the answer away. The source of
a pair is its top-level package; the standard library is one source, `stdlib`.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from multigrain.records import Pair, encodable
from multigrain.terminal import meter

STDLIB = "stdlib"
SKIPPED = frozenset(
    {"tests", "test", "testing", "_testing", "_vendor", "vendor", "externals", "extern", "site-packages"}
    | {"dist-packages", "idlelib", "lib2to3", "__pycache__", "conftest.py"}
)
"""Folders and files that hold tests or copies of other packages."""

QUERY_WORDS = range(3, 31)
POSITIVE_WORDS = range(12, 4000)

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_pairs() -> list[Pair]:
    """Return the pairs of all installed packages, in a fixed order; no query and no positive appears twice."""
    jobs = [(name, root, path) for name, root in package_roots() for path in _modules(root)]
    pairs: list[Pair] = []
    queries: set[str] = set()
    positives: set[str] = set()
    ids: set[str] = set()
    with meter("reading docs", len(jobs)) as progress:
        for job in jobs:
            progress.advance()
            for pair in _module_pairs(*job):
                query, positive = pair.query.casefold(), pair.positive.casefold()
                if query in queries or positive in positives or pair.id in ids:
                    continue
                queries.add(query)
                positives.add(positive)
                ids.add(pair.id)
                pairs.append(pair)
    return pairs


def package_roots() -> list[tuple[str, Path]]:
    """Return (name, folder) of the standard library, then of each installed package, by name."""
    packages: dict[str, Path] = {}
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for root in Path(folder).iterdir():
            if (root / "__init__.py").is_file() and not root.name.startswith("_"):
                packages[root.name] = root
    return [(STDLIB, Path(sysconfig.get_path("stdlib"))), *sorted(packages.items())]


def _modules(root: Path) -> list[Path]:
    def wanted(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return not any(part in SKIPPED or part.startswith("test_") for part in parts)

    return sorted(filter(wanted, root.rglob("*.py")))


def _module_pairs(name: str, root: Path, path: Path) -> list[Pair]:
    try:
        source = path.read_bytes()
    except OSError:  # a link that leads nowhere
        return []
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    parts = [] if name == STDLIB else [name]
    parts += [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
    module = ".".join(parts) or name
    return [
        pair
        for qualified, node in _definitions(tree, module)
        if (docstring := ast.get_docstring(node)) and (pair := to_pair(qualified, docstring, name))
    ]


def _definitions(node: _Definition, name: str) -> Iterator[tuple[str, _Definition]]:
    """Yield the node, and the public classes, functions and methods below it, by qualified name."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _definitions(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{name}.{child.name}", child


def to_pair(qualified_name: str, docstring: str, source: str) -> Pair | None:
    r"""Return the pair of a docstring: the summary is the query, the rest without the object's name the positive.

    None where either has too few or too many words.

    >>> rest = "sqrt works on each element of x, and gives a new array of the same shape as x."
    >>> to_pair("np.sqrt", "Return the square root.\n\n" + rest, "np").positive
    'works on each element of x, and gives a new array of the same shape as x.'
    """
    summary, _, rest = re.sub(r"\n[ \t]+\n", "\n\n", docstring).partition("\n\n")
    name = qualified_name.rsplit(".", 1)[-1]
    query = " ".join(summary.split())
    positive = " ".join(re.sub(rf"\b{re.escape(name)}\b", " ", rest).split())
    if len(query.split()) not in QUERY_WORDS or len(positive.split()) not in POSITIVE_WORDS:
        return None
    return Pair(qualified_name, encodable(query), encodable(positive), source)
