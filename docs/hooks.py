"""Pages of the site that are written when it is built, and links that leave docs/.

mkdocs calls `on_files` and `on_page_markdown`; the tests call what they are made of.
"""

import argparse
import json
import os
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multigrain
from multigrain.cli.parser import VERBS, build_parser
from multigrain.config import Config
from multigrain.config.reference import Setting, own_doc, settings_of
from multigrain.experiments.settings import Ablation

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/own_pairs.ipynb": "guides/notebook.md",
}
"""Files outside docs/ that have a page of the site."""
PYTHON = {
    "Runs": "run check synthesize grade dropped adapt train evaluate export_model search export_data",
    "Experiments": "tune ablate check_grid compare_runs",
    "Models": "load_model build_model verify_model explain merge_model export_onnx AnchorPooling",
    "Configuration": "load_config Config ModelSection",
    "Records": "Pair Document Negative GradedTuple Curriculum",
    "Errors": "MultigrainError ConfigError DataError LLMError RunError",
}
"""Sections of the Python reference, and the public names of each."""
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def on_files(files: "Files", config: Any) -> "Files":
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at their pages, or at the source repository."""
    uri = page.file.src_uri
    file = next((file for file, own in PAGES.items() if own == uri and own != "index.md"), f"docs/{uri}")
    return relinked(markdown, file, uri, source_url())


def generated() -> dict[str, str]:
    """Return the text of each generated page."""
    return {
        "reference/settings.md": settings_page(),
        "reference/command-line.md": command_line_page(),
        "reference/python.md": python_page(),
        "guides/examples.md": examples_page(),
        "guides/notebook.md": notebook_page(ROOT / "examples" / "own_pairs.ipynb"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    }


def source_url() -> str | None:
    """Return the address of the source repository, if pyproject.toml has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): url.rstrip("/") for name, url in project.get("urls", {}).items()}
    named = [urls[name] for name in ("source", "repository", "homepage") if name in urls]
    return next((url for url in named if "github.com/" in url or "gitlab.com/" in url), None)


def relinked(markdown: str, file: str, uri: str, source: str | None) -> str:
    """Rewrite the links of a page that lead out of docs/; code blocks stay as they are.

    Args:
        markdown: text of the page.
        file: its path in the repository, from which its links count.
        uri: its place in the site.
        source: address of the source repository; without one, such links become plain text.

    >>> relinked("[a](../src/x.py) [b](../README.md#c) [d](e.md)", "docs/f.md", "f.md", None)
    'a [b](index.md) [d](e.md)'
    """

    def replaced(match: re.Match[str]) -> str:
        text, (path, hash, anchor) = match[1], match[2].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        page = PAGES.get(target)
        if target.startswith("docs/"):
            page = target.removeprefix("docs/")
        elif target.startswith("examples/") and page is None:
            page, hash, anchor = "guides/examples.md", "#", anchor_of(target)
        if page is not None:
            anchor = "" if target == "README.md" else f"{hash}{anchor}"  # its headings are not those of the front page
            return f"{text}({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
        return f"{text}({source}/blob/main/{target})" if source else text[1:-1]

    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [LINK.sub(replaced, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, LINK.sub(replaced, markdown[end:])])


def settings_page() -> str:
    """Write the reference of all settings of a run and of a grid."""
    run = list(settings_of(Config))
    keys = {setting.key for setting in run}
    lines = [
        "# Settings",
        "",
        "A run is one TOML file. Each setting has a default unless it says *required*; unknown keys are errors that "
        "name the likely key. On the command line, `--set training.steps=200` wins over the file. "
        "`help(multigrain.Config)` shows the same list.",
        "",
        *_settings_lines(run, "", keys),
        "## A grid of runs {#grid}",
        "",
        f"The file of [`multigrain ablate`](command-line.md#ablate). {own_doc(Ablation)}",
        "",
        *_settings_lines(list(settings_of(Ablation)), "grid.", set()),
    ]
    return "\n".join(lines)


def _settings_lines(settings: list[Setting], anchor: str, keys: set[str]) -> Iterator[str]:
    """Yield a heading for each table, and a heading, the facts and the meaning of each setting."""
    for setting in settings:
        name = f"{anchor}{setting.key}"
        if setting.section is not None:
            depth = "##" if "." not in setting.key and not anchor else "###"
            brackets = "[[{}]]" if setting.kind.startswith("list") else "[{}]"
            yield f"{depth} {brackets.format(setting.key)} {{#{name}}}\n"
        else:
            yield f"#### `{setting.key.rpartition('.')[2]}` {{#{name} .setting data-toc-label='{setting.key}'}}\n"
            yield f"{facts(setting)}\n{{ .facts }}\n"
        if setting.meaning:
            yield f"{linked(setting.meaning, keys)}\n"


def facts(setting: Setting) -> str:
    """Say type, range and default of a setting in one line."""
    kind = re.sub('("[^"]*")', r"`\1`", setting.kind)
    default = "*required*" if setting.default is None else "not set by default"
    if setting.default not in (None, "none"):
        default = f"default `{setting.default}`"
    allowed = re.sub(r"pattern (\S+)", r"pattern `\1`", setting.allowed)
    return " · ".join(filter(None, [f"`{setting.key}`", kind, allowed, default]))


def linked(text: str, keys: set[str]) -> str:
    """Link the names of settings and pages in a meaning.

    >>> linked("See `training.steps` and docs/evaluation.md.", {"training.steps"})
    'See [`training.steps`](#training.steps) and [Evaluation](../evaluation.md).'
    """
    text = re.sub(r"`([a-z_]+(?:\.[a-z_]+)+)`", lambda m: f"[{m[0]}](#{m[1]})" if m[1] in keys else m[0], text)
    return re.sub(r"docs/([a-z-]+)\.md", lambda m: f"[{m[1].replace('-', ' ').capitalize()}](../{m[1]}.md)", text)


def command_line_page() -> str:
    """Write the reference of the command line."""
    os.environ["COLUMNS"] = "80"  # argparse wraps to the window
    parser = build_parser()
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    lines = ["# Command line", "", str(parser.description), ""]
    rows = "".join(map(_verb_row, VERBS))
    lines += [f"| command | what it does |\n| --- | --- |\n{rows}", _block(str(parser.epilog))]
    for name in VERBS:
        lines += _verb_lines(name, verbs[name])
    return "\n".join(lines)


def _verb_row(name: str) -> str:
    return f"| [`{name}`](#{name}) | {VERBS[name]} |\n"


def _verb_lines(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    usage = parser.format_usage().removeprefix("usage: ")
    yield f"## {name} {{#{name}}}\n\n{parser.description}\n\n{_block(usage, 'sh')}\n"
    for action in parser._actions:
        if "--help" in action.option_strings:
            continue
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        values = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
        takes = f" `{values}`" if action.option_strings and values and action.nargs != 0 else ""
        yield f"{names}{takes}\n:   {(action.help or '').replace('%%', '%')}\n"
    if parser.epilog:
        yield _block(parser.epilog)


def _block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.strip()}\n```\n"


def python_page() -> str:
    """Write the reference of the public names; mkdocstrings fills in their docstrings."""
    lines = [
        "# Python",
        "",
        "`import multigrain` costs next to nothing: names are loaded when they are first used.",
        "",
    ]
    for section, names in PYTHON.items():
        lines += [f"## {section}", ""]
        for name in names.split():
            lines += [f"::: multigrain.{name}", *_options(name), ""]
    return "\n".join(lines)


def _options(name: str) -> list[str]:
    """Show of a configuration its methods alone: its fields are in the reference of the settings."""
    if name not in ("Config", "ModelSection"):
        return []
    own = [member for member, value in vars(getattr(multigrain, name)).items() if _is_public_method(member, value)]
    signature = {"options": {"show_signature": False, "members": own or False}}
    place = "settings.md" + ("" if name == "Config" else "#model")
    return [f"    {line}" for line in _yaml(signature)] + ["", f"Its fields are the [settings]({place})."]


def _is_public_method(name: str, value: Any) -> bool:
    return not name.startswith(("_", "model_")) and (callable(value) or isinstance(value, property | staticmethod))


def _yaml(tree: dict[str, Any]) -> list[str]:
    return [f"{key}: {json.dumps(value)}" for key, value in tree.items()]


def anchor_of(path: str) -> str:
    """Return the anchor of an example.

    >>> anchor_of("examples/own_pairs.toml")
    'own-pairs-toml'
    """
    return re.sub("[^a-z0-9]+", "-", posixpath.basename(path))


def examples_page() -> str:
    """Write a page with all example files but the notebook; of data, the first lines."""
    lines = ["# Examples", "", "The files of the folder `examples`. Paths in them are relative to that folder.", ""]
    for path in sorted((ROOT / "examples").glob("*.*")):
        if path.suffix not in (".toml", ".py", ".jsonl"):
            continue
        text = path.read_text(encoding="utf-8").splitlines()
        is_data = path.suffix == ".jsonl"
        shown = [*text[:3], "..."] if is_data else text
        language = {".toml": "toml", ".py": "python", ".jsonl": "text"}[path.suffix]
        lines += [f"## {path.name} {{#{anchor_of(path.name)}}}", "", _block("\n".join(shown), language)]
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """Write a notebook as a page: its texts, its code, and what the code printed."""
    lines = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        lines += [text if cell["cell_type"] == "markdown" else _block(text, "python"), ""]
        for output in cell.get("outputs", []):
            printed = output.get("text") or output.get("data", {}).get("text/plain", [])
            if output.get("name") != "stderr" and printed:
                lines += [_block("".join(printed)), ""]
    return "\n".join(lines)
