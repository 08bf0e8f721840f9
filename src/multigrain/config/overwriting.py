"""Check whether `--out` may be written: one rule for each kind of output."""

from pathlib import Path

from multigrain.errors import ConfigError


def require_free_file(out: Path, force: bool) -> None:
    """Check that a file may be written; with `force`, an existing one may be replaced.

    Raises:
        ConfigError: the file may not be written, or its folder does not exist.
    """
    if not out.absolute().parent.is_dir():
        raise _refused(f"{out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise _refused(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise _refused(f"{out} exists; give another name, or --force")


def require_extendable_folder(out: Path, force: bool) -> None:
    """Check that files may be written into a folder; with `force`, it may exist already.

    Raises:
        ConfigError: they may not be written.
    """
    if out.exists() and not out.is_dir():
        raise _refused(f"{out} is a file; give the name of a folder")
    if out.exists() and not force:
        raise _refused(f"{out} exists; give another name, or --force")


def require_replaceable_folder(out: Path, force: bool, ours: str, others: str | None = None) -> None:
    """Check that a folder may be written, and may replace an existing one with `force`.

    Args:
        out: the folder to write.
        force: replace a folder that is empty or of the same kind, that is, contains `ours` but not `others`.
        ours: a file that identifies this kind of folder.
        others: a file that identifies another kind.

    Raises:
        ConfigError: the folder may not be written.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise _refused(f"{out} is a file; give the name of a folder")
    if not force:
        raise _refused(f"{out} exists; give another name, or --force")
    names = {path.name for path in out.iterdir()}
    if names and (ours not in names or others in names):
        raise _refused(f"{out} holds other files; --force replaces only a folder with {ours}; give another name")
    if Path.cwd().is_relative_to(out.resolve()):
        raise _refused(f"{out} contains the current folder; give another name")


def require_free_form(out: Path, form: str, suffixes: tuple[str, ...], force: bool) -> None:
    """Check that training data may be written in this form; an empty folder may be used.

    Args:
        out: the file to write, or the folder.
        form: name of the form, for the message.
        suffixes: allowed endings of the file's name; empty if the form is a folder.
        force: replace an existing file or folder.

    Raises:
        ConfigError: the path may not be written, or does not suit the form.
    """
    if suffixes and out.suffix not in suffixes:
        raise _refused(f'found "{out}"; for {form} the name must end in {" or ".join(suffixes)}')
    if suffixes and out.is_dir():
        raise _refused(f"{out} is a folder; {form} is one file. Give the name of a file")
    if not suffixes and out.exists() and not out.is_dir():
        raise _refused(f"{out} is a file; {form} is a folder. Give the name of a folder")
    if not force and out.exists() and (out.is_file() or any(out.iterdir())):
        raise _refused(f"{out} exists; give another path, or --force to replace it")


def _refused(fault: str) -> ConfigError:
    return ConfigError("--out", [fault])
