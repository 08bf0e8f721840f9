"""Versions of Python and of packages, and the ranges that this release supports. No package is imported."""

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from multigrain.cli.print_and_exit import PrintAndExit
from multigrain.version import __version__

SHOWN = ("torch", "sentence-transformers", "transformers")
"""Packages whose versions `--version` shows."""
PYTHON = "Programming Language :: Python :: "


class PrintVersions(PrintAndExit):
    """Print the versions that a bug report needs, and exit."""

    def text(self, parser: argparse.ArgumentParser, value: str | Sequence[Any] | None) -> str:
        """Return one line for each version."""
        return "\n".join(versions())


def versions() -> list[str]:
    """Return a line for multigrain, Python with its platform, and each package of `SHOWN`."""
    python = f"Python {platform.python_version()} ({platform.platform()})"
    return [f"multigrain {__version__}", python, *(f"{name} {version_of(name) or 'not installed'}" for name in SHOWN)]


def version_of(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Requires:
    """The requirements in the metadata of the installed multigrain."""

    version: str
    """Version of multigrain that was installed."""
    python: SpecifierSet
    tested: list[str]
    """Versions of Python that the tests run on, such as `3.11`, in rising order."""
    packages: list[Requirement]

    def of_extra(self, extra: str) -> list[Requirement]:
        """Return the packages that an extra adds; for the empty name, those that are always needed."""
        return [each for each in self.packages if _is_of(each, extra)]


def read_requirements() -> Requires | None:
    """Return the requirements of this release; None if it runs from a folder that was never installed."""
    try:
        about = metadata.metadata("multigrain")
    except metadata.PackageNotFoundError:
        return None
    tested = [line.removeprefix(PYTHON) for line in about.get_all("Classifier") or [] if line.startswith(f"{PYTHON}3.")]
    return Requires(
        version=str(about["Version"]),
        python=SpecifierSet(str(about["Requires-Python"] or "")),
        tested=sorted(tested, key=lambda version: [int(part) for part in version.split(".")]),
        packages=[Requirement(line) for line in about.get_all("Requires-Dist") or []],
    )


def _is_of(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    is_needed = requirement.marker.evaluate({"extra": extra})
    return is_needed and (extra == "" or not requirement.marker.evaluate({"extra": ""}))


def unsupported(requirements: Sequence[Requirement]) -> Iterator[tuple[Requirement, str | None]]:
    """Yield each requirement that is not met, with the installed version or None."""
    for requirement in requirements:
        version = version_of(requirement.name)
        if version is None or not _allows(requirement.specifier, version):
            yield requirement, version


def _allows(specifier: SpecifierSet, version: str) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:  # a custom build
        return True
