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

_LONG_STRING = r'''"""(?:[^"\\]|\\.|"(?!""))*+"""|\'{3}(?:[^'\\]|\\.|'(?!''))*+\'{3}'''
_SHORT_STRING = r'''"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+\''''
_COMMENT = r"\#[^\n]*+"
_NO_CODE = rf"(?:[ \t]*+(?:{_COMMENT})?\n)"
_INSIDE = r"(?P=indent)[ \t][^\n]*+\n"
_HEADER_END = rf"[^\n]*:[ \t]*(?:{_COMMENT})?\n"
_FUNCTION = re.compile(
    rf"""
    {_COMMENT} | {_LONG_STRING} | {_SHORT_STRING}
    | ^(?P<indent>[ \t]*+)(?:async[ ]+)?def[ ]+(?P<name>\w++)\(
      (?: {_HEADER_END} | (?:[^\n]*[,(])?[ \t]*\n (?:(?P=indent)[ \t)][^\n]*+\n)*? (?P=indent)[ \t)]{_HEADER_END} )
      (?: (?P<docstring>{_NO_CODE}*+[ \t]+[rRuU]?+(?:{_LONG_STRING})[ \t]*(?:{_COMMENT})?\n)
        | (?!{_NO_CODE}*+[ \t]*+[rRuUbBfF]*+["\']) )
      (?: {_INSIDE} | {_NO_CODE} )*+
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
"""A comment, a string, or else a function: header over one line or several, perhaps a docstring, and the rest of its
body. Of functions that look otherwise nothing matches."""

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
    tree = _parsed(source)
    if tree is None:
        return []
    parts = [] if name == STDLIB else [name]
    parts += [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
    module = ".".join(parts) or name
    pairs = (to_pair(qualified, ast.get_docstring(node) or "", name) for qualified, node in _definitions(tree, module))
    return [pair for pair in pairs if pair]


def _parsed(source: bytes) -> ast.Module | None:
    """Parse a module's classes, names of functions, and docstrings; None if it has no docstring or is no Python."""
    if b'"""' not in source and b"'''" not in source:
        return None
    with warnings.catch_warnings(action="ignore"):
        for read in (without_bodies, bytes):  # most of a module is code that says nothing here
            try:
                return ast.parse(read(source))
            except (SyntaxError, ValueError, RecursionError):
                continue
    return None


def without_bodies(source: bytes) -> str:
    r"""Return a module with no more of its functions than their names and docstrings.

    A body ends where a line is indented as its header; a string that has such lines leaves a remainder that is no
    Python, and then the module is to be parsed whole.

    Raises:
        ValueError: the module is not in UTF-8.

    >>> without_bodies(b"class A:\n  x = 1\n\n  def f(self):\n    return 2\n")
    'class A:\n  x = 1\n\n  def _(): pass\n'
    """
    return _FUNCTION.sub(_shortened, source.decode().replace("\r\n", "\n"))


def _shortened(found: re.Match[str]) -> str:
    name, docstring = found["name"], found["docstring"]
    if name is None:
        return found[0]
    if docstring is None or name.startswith("_"):
        return f"{found['indent']}def _(): pass\n"
    return f"{found['indent']}def {name}():\n{docstring}"


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
    if len(query.split()) not in QUERY_WORDS:
        return None
    if name in rest:  # a pattern costs more than all the rest
        rest = re.sub(rf"\b{re.escape(name)}\b", " ", rest)
    positive = " ".join(rest.split())
    if len(positive.split()) not in POSITIVE_WORDS:
        return None
    return Pair(qualified_name, encodable(query), encodable(positive), source)
