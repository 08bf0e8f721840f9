"""The built-in default corpus: the documentation of the installed Python packages.

Docstrings are read with `ast`; nothing is imported. The query is the summary of a docstring. The positive is the prose
of the rest, in which an ellipsis stands for the object's own name: the name would give the answer away. The source of a
pair is its top-level package; the standard library is one source, `stdlib`.
"""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from multigrain.records import Pair, encodable
from multigrain.terminal import meter

STDLIB = "stdlib"
SKIPPED = frozenset(
    {"tests", "test", "testing", "_testing", "_vendor", "vendor", "externals", "extern", "site-packages"}
    | {"dist-packages", "idlelib", "lib2to3", "__pycache__", "conftest.py"}
)
"""Folders and files that hold tests or copies of other packages."""

_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n")
QUERY_WORDS = range(3, 31)
POSITIVE_WORDS = range(12, 4000)
_ROLE = re.compile(r"\A:[\w:]+:(?=`)")
_STARTS_AS_TEXT = re.compile(r"""[`'"*(\[“]{0,3}+\w""")
_WORD = re.compile(r"[a-z]{3,}")
_STEM_LETTERS = 5
_STOP_WORDS = frozenset("and are for from has have its return returns that the this when which will with you".split())

_FENCED = re.compile(
    r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^`~\n]*+\n(?:(?![ \t]*+(?P=fence)).*+\n)*+[ \t]*+(?P=fence)[ \t]*+$",
    re.MULTILINE,
)
_DOCTEST = re.compile(r"^(?P<indent>[ \t]*+)>>>.*+(?:\n(?=(?P=indent))[ \t]*+\S.*+)*+", re.MULTILINE)
"""A doctest and its output, up to a blank line or a smaller indent."""
_BLOCK = re.compile(
    r"""
    ^(?P<indent>[ \t]*+)
    (?: \.\.[ ] (?P<directive>[\w-]++) [ ]?::.*+ | (?!\.\.[ ])(?P<sentence>\S.*)::[ \t]*+ ) \n
    (?: [ \t]*+\n | (?P=indent)[ \t]++\S.*+(?:\n|\Z) )++
    """,
    re.VERBOSE | re.MULTILINE,
)
"""A sentence that ends in `::`, or a directive, with the indented block below it."""
_CODE_DIRECTIVES = frozenset(
    "autosummary code code-block doctest ipython math parsed-literal plot sourcecode "
    "testcode testoutput testsetup toctree".split()
)
_SECTIONS = frozenset(
    "Args Arguments Attributes Inputs Note Notes Outputs Parameters Params Raises Returns Shape".split()
)
"""Headings whose text some packages write as a literal block."""
_HEADING_OF_EXAMPLES = re.compile(
    r"^[ \t]*+(?:Examples?|Usage)[ \t]*+(?::{1,2}[ \t]*+$|\n[ \t]*+[-=~^]{3,}[ \t]*+$)", re.MULTILINE
)

_LONG_STRING = r"""(?:\"{3}(?:[^"\\]|\\.|"(?!""))*+\"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*+'{3})"""
_STRING = rf"""(?>{_LONG_STRING}|"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')"""
_COMMENT = r"\#[^\n]*+"
_TO_LINE_END = rf"[ \t]*+(?:{_COMMENT})?\n"
_FUNCTION = re.compile(
    rf"""
    {_COMMENT} | {_STRING}
    | ^(?P<indent>[ \t]*+)(?:async[ ]+)?def[ ]+(?P<name>\w++)\(
      (?: [^\n"'\#:]++ | {_STRING} | {_COMMENT} | :(?!{_TO_LINE_END}) | \n(?=(?P=indent)[ \t)]) )*+ :{_TO_LINE_END}
      (?: (?P<docstring>(?:{_TO_LINE_END})*+ [ \t]+[rRuU]?+{_LONG_STRING}{_TO_LINE_END})
        | (?!(?:{_TO_LINE_END})*+[ \t]*+[rRuUbBfF]*+["']) )
      (?: (?P=indent)[ \t](?: [^\n"'\#]++ | {_STRING} | {_COMMENT} | ["'] )*+\n | {_TO_LINE_END} )*+
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
"""Matches a comment, a string or a function: its header over one or more lines, any docstring, and the rest of its
body. Functions of another layout do not match."""

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
    found: list[Path] = []
    for folder, below, files in os.walk(root):
        below[:] = filter(_is_wanted, below)  # os.walk skips the rest
        found += [Path(folder, name) for name in files if name.endswith(".py") and _is_wanted(name)]
    return sorted(found, key=attrgetter("parts"))


def _is_wanted(name: str) -> bool:
    return name not in SKIPPED and not name.startswith("test_")


def _module_pairs(name: str, root: Path, path: Path) -> list[Pair]:
    try:
        source = path.read_bytes()
    except OSError:  # such as a broken link
        return []
    tree = _parsed(source)
    if tree is None:
        return []
    parts = [] if name == STDLIB else [name]
    parts += [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
    module = ".".join(parts) or name
    return [
        pair
        for qualified, node in _definitions(tree, module)
        if (docstring := _docstring(node)) and (pair := to_pair(qualified, docstring, name))
    ]


def _docstring(node: _Definition) -> str | None:
    """Return the docstring, if it has more than one paragraph."""
    found = ast.get_docstring(node, clean=False)
    return inspect.cleandoc(found) if found and _BETWEEN_PARAGRAPHS.search(found) else None


def _parsed(source: bytes) -> ast.Module | None:
    """Parse the definitions and docstrings of a module; None if it has no docstrings or is not Python."""
    try:
        short = without_bodies(source)
    except UnicodeDecodeError:  # the first line may name another encoding
        return _tree(source)
    if '"""' not in short and "'''" not in short:
        return None
    return _tree(short) or _tree(source)


def _tree(source: str | bytes) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def without_bodies(source: bytes) -> str:
    r"""Return a module with each function reduced to its name and any docstring of several paragraphs.

    The result may not be valid Python if a function has an unusual layout; then parse the whole module.

    Raises:
        ValueError: the module is not UTF-8.

    >>> without_bodies(b"class A:\n  x = 1\n\n  def f(self):\n    return 2\n")
    'class A:\n  x = 1\n\n  def _(): pass\n'
    """
    return _FUNCTION.sub(_shortened, source.decode().replace("\r\n", "\n"))


def _shortened(found: re.Match[str]) -> str:
    name, docstring = found["name"], found["docstring"]
    if name is None:
        return found[0]
    if name.startswith("_") or not docstring or not _BETWEEN_PARAGRAPHS.search(docstring):
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
    r"""Return the pair of a docstring: the summary is the query; the rest, as prose without the name, the positive.

    Return None if one of them is too short or too long, if they have no word in common, or if the summary is markup.

    >>> rest = "sqrt works on each element of x, and gives the square roots as a new array.\n\n>>> sqrt(4)\n2.0"
    >>> to_pair("np.sqrt", "Return the square root.\n\n" + rest, "np").positive
    '… works on each element of x, and gives the square roots as a new array.'
    """
    summary, _, rest = re.sub(r"\n[ \t]+\n", "\n\n", docstring).partition("\n\n")
    name = qualified_name.rsplit(".", 1)[-1]
    query = _ROLE.sub("", " ".join(summary.split()))
    if len(query.split()) not in QUERY_WORDS or query.endswith("::") or not _STARTS_AS_TEXT.match(query):
        return None
    rest = _without_code(rest)
    if name in rest:  # the pattern costs more than all other steps
        rest = re.sub(rf"\b{re.escape(name)}\b", "…", rest)
    positive = " ".join(rest.split())
    if len(positive.split()) not in POSITIVE_WORDS or _stems(query).isdisjoint(_stems(positive)):
        return None
    return Pair(qualified_name, encodable(query), encodable(positive), source)


def _without_code(text: str) -> str:
    r"""Leave out examples: fenced code, doctests, literal blocks, directives that show code, and their headings.

    >>> _without_code("As in::\n\n    f(1)\n\nOr so.")
    'As in:\nOr so.'
    """
    for pattern in (_FENCED, _DOCTEST):
        text = pattern.sub("", text)
    return _HEADING_OF_EXAMPLES.sub("", _BLOCK.sub(_without_block, text))


def _without_block(found: re.Match[str]) -> str:
    if found["directive"]:  # such as a note, whose text stays
        return "\n" if found["directive"] in _CODE_DIRECTIVES else found[0]
    if found["sentence"] in _SECTIONS:
        return found[0]
    return f"{found['indent']}{found['sentence']}:\n"


def _stems(text: str) -> set[str]:
    return {word[:_STEM_LETTERS] for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS}
