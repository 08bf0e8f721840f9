"""Decide whether `--out` may be written: one rule for each kind of output, all refusals in one place."""

from pathlib import Path

from multigrain.errors import ConfigError


def require_free_file(out: Path, force: bool) -> None:
    """Make sure that a file may be written; with `force`, the one that is there may be replaced.

    Raises:
        ConfigError: it may not, or its folder is not there.
    """
    if not out.absolute().parent.is_dir():
        raise _refused(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise _refused(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise _refused(f"{out} exists; give another name, or --force")


def require_extendable_folder(out: Path, force: bool) -> None:
    """Make sure that files may be written into a folder; with `force`, one that is there may get them too.

    Raises:
        ConfigError: they may not.
    """
    if out.exists() and not out.is_dir():
        raise _refused(f"{out} exists; give another name")
    if out.exists() and not force:
        raise _refused(f"{out} exists; give another name, or --force")


def require_replaceable_folder(out: Path, force: bool, ours: str, others: str | None = None) -> None:
    """Make sure that a folder may take the place of what is there.

    Args:
        out: the folder to write.
        force: replace a folder that is empty, or one of the same kind: it holds `ours`, and not `others`.
        ours: the file that tells this kind of folder.
        others: the file that tells another kind.

    Raises:
        ConfigError: it may not.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise _refused(f"{out} is a file; give the name of a folder")
    if not force:
        raise _refused(f"{out} exists; give another name, or --force")
    names = {path.name for path in out.iterdir()}
    if names and (ours not in names or others in names):
        raise _refused(f"{out} holds other things (not {ours} alone); give another name")
    if Path.cwd().is_relative_to(out.resolve()):
        raise _refused(f"{out} is where you are; give another name")


def require_free_form(out: Path, form: str, suffixes: tuple[str, ...], force: bool) -> None:
    """Make sure that a form of the training data may be written; an empty folder is free.

    Args:
        out: the file to write, or the folder.
        form: its name, for the message.
        suffixes: how the file's name may end; none for a form that is a folder.
        force: replace what is there.

    Raises:
        ConfigError: it may not, or the path is not one for this form.
    """
    if suffixes and out.suffix not in suffixes:
        raise _refused(f'found "{out}"; for {form} the name must end in {" or ".join(suffixes)}')
    if suffixes and out.is_dir():
        raise _refused(f"{out} is a folder; {form} is one file. Give the name of a file")
    if not suffixes and out.exists() and not out.is_dir():
        raise _refused(f"{out} is a file; {form} is a folder. Give the name of a folder")
    if not force and out.exists() and (out.is_file() or any(out.iterdir())):
        raise _refused(f"{out} exists already. Give another path, or --force to replace it")


def _refused(fault: str) -> ConfigError:
    return ConfigError("--out", [fault])
