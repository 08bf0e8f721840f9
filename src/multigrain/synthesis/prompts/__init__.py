"""The prompts, one text file each. A user can replace a file with one of the same name.

Lines at the top that begin with `#` are comments. `$name` is a placeholder that the program fills in. A user's file may
omit placeholders of the packaged file, but not use others. The version of a prompt is a digest of its text, so that
texts written with different prompts can be told apart.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from multigrain.errors import ConfigError

FOLDER = Path(__file__).parent
PASSAGE = "passage"
"""The placeholder at which a few-shot prompt ends and the model continues."""
PATTERNS = ("grade_1", "grade_2", "grade_3")
"""Few-shot prompts; they may use the query, the positive, or both."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text, with its placeholders."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """The name with a digest of the text: `grade_1@5f3a9c01`."""
        return f"{self.name}@{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"

    def fill(self, **values: str) -> str:
        """Return the text with the values in place of the placeholders.

        >>> Prompt("pair", "Say $word.").fill(word="it")
        'Say it.'
        """
        return Template(self.text).substitute(values)

    def pattern(self, shots: Iterable[Mapping[str, str]], **values: str) -> str:
        """Return a few-shot prompt: the text for each shot, then once more up to `$passage`, for the model to go on."""
        names = Template.pattern.finditer(self.text)  # one for each dollar sign: `$$`, `$name` or `${name}`
        end = next((name.start() for name in names if PASSAGE in (name["named"], name["braced"])), None)
        opening = self.text[:end].rstrip()
        blocks = [Template(self.text).substitute(shot) for shot in shots]
        return "\n\n".join([*blocks, Template(opening).substitute(values)])


def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """Load a prompt: the user's file `NAME.txt` in `folder` if it exists, else the packaged one.

    Raises:
        ConfigError: the user's file is empty, uses an unknown placeholder, or lacks `$passage` where it is needed.
    """
    if folder is None or not (path := Path(folder, f"{name}.txt")).is_file():
        return Prompt(name, _text(FOLDER / f"{name}.txt"))
    text, known = _text(path), names_in(_text(FOLDER / f"{name}.txt"))
    known |= {"query", "positive"} if name in PATTERNS else set()
    try:
        unknown = names_in(text) - known
    except ValueError as error:
        raise ConfigError(path, [f"{error}; write $$ for a dollar sign"]) from None
    if unknown:
        wanted = ", ".join(f"${known_name}" for known_name in sorted(known))
        raise ConfigError(path, [f"found ${', $'.join(sorted(unknown))}; wanted only {wanted}"])
    if not text or ("passage" in known and "passage" not in names_in(text)):
        raise ConfigError(path, ["found no $passage" if text else "is empty"])
    return Prompt(name, text)


def check_folder(folder: str) -> None:
    """Check that a user's folder holds valid prompts, and no file with a misspelt name.

    Raises:
        ConfigError: the folder is missing, or a file has the name of no prompt; see also `load_prompt`.
    """
    if not Path(folder).is_dir():
        raise ConfigError("synthesis.prompts", [f'found "{folder}"; wanted a folder with prompts, such as grade_4.txt'])
    known = {path.stem for path in FOLDER.glob("*.txt")}
    for path in sorted(Path(folder).glob("*.txt")):
        if path.stem not in known:
            raise ConfigError(path, [f"no prompt has this name; known: {', '.join(sorted(known))}"])
        load_prompt(path.stem, folder)


def files_in(folder: str | None) -> list[Path]:
    """Return the files that determine the prompts: the packaged ones and the user's."""
    own = sorted(Path(folder).glob("*.txt")) if folder else []
    return [*sorted(FOLDER.glob("*.txt")), FOLDER / "examples.toml", *own]


@cache
def packaged_examples() -> list[dict[str, str]]:
    """Return the examples that small models are shown if the user gives none."""
    text = (FOLDER / "examples.toml").read_text(encoding="utf-8")
    return list(tomllib.loads(text)["examples"])


def names_in(text: str) -> set[str]:
    """Return the placeholders of a text.

    Raises:
        ValueError: a dollar sign has no name after it.
    """
    if not Template(text).is_valid():
        raise ValueError("a dollar sign stands alone")
    return set(Template(text).get_identifiers())


def _text(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"cannot be read: {error}"]) from None
    while lines and re.match(r"#|\s*$", lines[0]):
        del lines[0]
    return "\n".join(lines).rstrip()
