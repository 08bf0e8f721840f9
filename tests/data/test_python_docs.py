import ast
import sysconfig
from pathlib import Path

import pytest

from multigrain.data import python_docs
from multigrain.data.python_docs import to_pair, without_bodies

REST = "The result is a new list that holds each of the words once, in the order of their first use."


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder whose modules would fail if they were imported."""
    paths = {"purelib": tmp_path / "site", "platlib": tmp_path / "site", "stdlib": tmp_path / "lib"}
    for path in paths.values():
        path.mkdir(exist_ok=True)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(paths[name]))

    def module(path: str, name: str, summary: str, rest: str = REST) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(f'def {name}():\n    """{summary}\n\n    {rest}\n    """\n\nraise SystemExit("imported")\n')

    module("site/alpha/__init__.py", "unique", "Return the different words of a text.")
    module("site/alpha/core/_sets.py", "merge", "Merge two sets of words.", REST.replace("list", "set"))
    module("site/alpha/core/_sets.py", "_hidden", "Merge three sets of words.", REST.replace("list", "bag"))
    module("site/alpha/tests/test_sets.py", "helper", "Help the tests of words.", REST.replace("list", "aid"))
    module("site/beta/__init__.py", "copied", "Return the different words of a text.", REST.replace("list", "dict"))
    module("site/beta/__init__.py", "same", "Say something else about words.", REST)
    module("site/_private/__init__.py", "secret", "Keep the words to oneself.", REST.replace("list", "vault"))
    module("lib/textlib.py", "wrap", "Wrap the words of a line.", REST.replace("list", "line"))
    (tmp_path / "site" / "alpha" / "broken.py").write_text('"""Not Python.\n\nAt all.\n"""\ndef (')
    return tmp_path


@pytest.mark.usefixtures("packages")
def test_public_objects_of_all_packages_are_read_once() -> None:
    pairs = {pair.id: pair for pair in python_docs.read_pairs()}
    assert set(pairs) == {"textlib.wrap", "alpha.unique", "alpha.core._sets.merge"}
    assert {pair.source for pair in pairs.values()} == {"stdlib", "alpha"}
    assert pairs["alpha.unique"].query == "Return the different words of a text."
    assert pairs["alpha.unique"].positive == REST


def test_the_name_cannot_give_the_answer_away() -> None:
    pair = to_pair("np.sqrt", f"Return the roots of all words.\n   \n{REST} See np.sqrt(x), not isqrt.", "np")
    assert pair is not None
    assert pair.positive == f"{REST} See np.…(x), not isqrt."


@pytest.mark.parametrize(
    "example",
    [
        ">>> unique('a b')\n['a', 'b']",
        "Examples\n--------\n>>> unique(\n...     'a b')\n['a', 'b']\n\n  >>> unique('')",
        "Example::\n\n    unique('a b')\n\n    unique('')\n",
        "    Usage::\n\n        unique('a b')",
        ".. code-block:: python\n\n    unique('a b')",
        "```python\nunique('a b')\n\nunique('')\n```",
        "Usage:\n\n  ~~~\n  unique('a b')\n  ~~~",
    ],
)
def test_example_code_is_left_out(example: str) -> None:
    pair = to_pair(
        "a.unique", f"Return the different words of a text.\n\n{REST}\n\n{example}\n\nSee also the rest.", "a"
    )
    assert pair is not None
    assert pair.positive == f"{REST} See also the rest."


@pytest.mark.parametrize(
    ("rest", "positive"),
    [
        ("It equals::\n\n    y = x\n\nalmost.", "It equals: almost."),
        (".. note::\n\n    The order may change.", ".. note:: The order may change."),
        ("Shape::\n\n    words: one axis", "Shape:: words: one axis"),
        ("Notes\n~~~~~\nThe order may change.\n\nMore\n~~~~\nEnd.", "Notes ~~~~~ The order may change. More ~~~~ End."),
        ("```x``` is inline.", "```x``` is inline."),
        ("    >>> unique('')\n    []\nRaises:\n    Nothing.", "Raises: Nothing."),
        ("usage\nof words", "usage of words"),
    ],
)
def test_prose_beside_code_stays(rest: str, positive: str) -> None:
    pair = to_pair("a.unique", f"Return the different words of a text.\n\n{REST}\n\n{rest}", "a")
    assert pair is not None
    assert pair.positive == f"{REST} {positive}"


@pytest.mark.parametrize(
    ("summary", "query"),
    [
        (":class:`Words` holds words.", "`Words` holds words."),
        ("``'a'`` joins other words.", "``'a'`` joins other words."),
        ("(Deprecated) Join all words.", "(Deprecated) Join all words."),
    ],
)
def test_markup_in_a_summary(summary: str, query: str) -> None:
    pair = to_pair("a.b", f"{summary}\n\n{REST}", "a")
    assert pair is not None
    assert pair.query == query


@pytest.mark.parametrize(
    "docstring",
    [
        "One line only.",
        f"Two words\n\n{REST}",
        "A good summary of words.\n\nToo short for words.",
        f"Not any term in common.\n\n{REST}",
        f"!!! abstract for the words\n\n{REST}",
        f".. list of all words\n\n{REST}",
        f"List the words like this::\n\n{REST}",
    ],
)
def test_what_cannot_be_searched_for_is_left_out(docstring: str) -> None:
    assert to_pair("a.b", docstring, "a") is None


def test_lone_surrogates_do_not_reach_the_files() -> None:
    pair = to_pair("a.b", f"Return the \udcff of words.\n\n{REST}", "a")
    assert pair is not None
    assert pair.query.encode("utf-8")


MODULE = '''"""A module: it's "about" words.

def not_code(here):
    pass
"""
import os  # it's a comment with one quote

@decorated(")")
class Words(dict[str, "a: b"]):
    """Words."""

    table: dict = {"def f(x):\\n": 1}

    @property
    def count(
        self, separator: str = """
    def nor_this(one):
""", *, pattern: str = "(:",  # why: not
    ) -> "int":  # of words
        # first a comment

        r"""Count \\words.

        def in_docstring(x):
            pass
        """
        text = """
def in_a_string_of_the_body():
    pass

"""
        return lambda: text

    async def later(self): return {"a": 1}

    def nested(self):
        def inside():
            """Hidden.

            Deeply.
            """
# a comment at the margin
        return inside

    def plain(self):
        "Short quotes.\\n\\nTwo paragraphs."

    def _private(self):
        """Private.

        Too.
        """

    class Inner:
        def last(self, *, a=(1,
                             2)):
            """Last.

            Of all.
            """; x = 1

if os:
    def conditional():
        return 1
else:
    def conditional():
        return 2
'''


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_without_bodies_the_docstrings_of_several_paragraphs_stay(line_end: str) -> None:
    source = MODULE.replace("\n", line_end).encode()
    short = without_bodies(source)
    assert docstrings(short) == docstrings(source)
    assert [name for name, _ in docstrings(short)] == ["", "Words.count", "Words.plain", "Words.Inner.last"]
    assert "return" not in short.replace("later(self): return", "")
    assert "_private" not in short


def docstrings(source: str | bytes) -> list[tuple[str, str]]:
    found = python_docs._definitions(ast.parse(source), "")
    named = [(name.lstrip("."), ast.get_docstring(node) or "") for name, node in found]
    return [(name, text) for name, text in named if "\n\n" in text]


def test_docstrings_are_those_of_the_whole_module() -> None:
    folder = Path(ast.__file__).parent
    for path in sorted(folder.glob("[a-d]*.py")):
        source = path.read_bytes()
        assert docstrings(without_bodies(source)) == docstrings(source), path


def test_other_encodings_are_read(packages: Path) -> None:
    text = f'# coding: latin-1\ndef café():\n    """Serve the words of a café.\n\n    {REST} Encore.\n    """\n'
    (packages / "site" / "alpha" / "latin.py").write_bytes(text.encode("latin-1"))
    assert "alpha.latin.café" in {pair.id for pair in python_docs.read_pairs()}


def test_the_real_environment_has_thousands_of_pairs() -> None:
    names = [name for name, _ in python_docs.package_roots()]
    assert {"stdlib", "numpy", "torch"} <= set(names)
    numpy_root = dict(python_docs.package_roots())["numpy"]
    pairs = [
        p for path in python_docs._modules(numpy_root) for p in python_docs._module_pairs("numpy", numpy_root, path)
    ]
    assert len(pairs) > 500
    assert all(pair.source == "numpy" for pair in pairs)
