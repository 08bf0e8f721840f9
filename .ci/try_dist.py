"""Install each built file in an environment of its own, and check that it works there.

Called as `python .ci/try_dist.py dist`. Nothing is downloaded. Of the environment that runs this script, the new ones
see the packages that the metadata of multigrain asks for, with what these ask for, and no others. So a dependency that
the metadata forgets is missed.
"""

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

TRIAL = """
import importlib, multigrain
from multigrain.config import QUICKSTART, load_config
from multigrain.synthesis.prompts import check_folder
names = [getattr(multigrain, name) for name in multigrain.__all__]
print(f"{len(names)} public names, quickstart: {load_config(QUICKSTART).name}, {multigrain.__file__}")
"""
BUILDS = ["hatchling", "hatch-fancy-pypi-readme"]
"""What the source distribution needs besides, to be built."""


def needed(requirement: str, seen: set[tuple[str, str]]) -> Iterator[metadata.Distribution]:
    """Yield the distribution that meets a requirement, and those that it needs; leave out what was seen before."""
    wanted = Requirement(requirement)
    found = metadata.distribution(wanted.name)
    extras = {"", *wanted.extras} - {extra for name, extra in seen if name == wanted.name}
    seen.update((wanted.name, extra) for extra in extras)
    if extras:
        yield found
    for line in found.requires or []:
        marker = Requirement(line).marker
        if any(marker is None or marker.evaluate({"extra": extra}) for extra in extras):
            yield from needed(line, seen)


def link(distribution: metadata.Distribution, folder: Path) -> None:
    """Make the files of an installed package visible in a folder, by links to what lies uppermost."""
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))


def run(python: Path, *arguments: str, cwd: Path) -> str:
    """Run the Python of an environment in a folder; return what it prints."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), *arguments]
    result = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}\nfailed with {result.returncode}")
    return result.stdout.strip()


def try_one(file: Path, requires: list[str], folder: Path) -> None:
    """Install a file, and use it from an empty folder."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder))
    seen: set[tuple[str, str]] = set()
    for line in requires + (BUILDS if file.suffix == ".gz" else []):
        for distribution in needed(line, seen):
            if distribution.name != "pip":
                link(distribution, site)
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-build-isolation")
    run(python, "-m", "pip", "install", *options, str(file.absolute()), cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    (folder / "empty").mkdir()
    script = folder / "environment" / "bin" / "multigrain"
    version = run(script, "--version", cwd=folder / "empty")
    if version.splitlines()[0] != f"multigrain {file.name.removesuffix('.tar.gz').split('-')[1]}":
        sys.exit(f"{file.name}: its version is {version.splitlines()[0]}")
    tried = run(python, "-c", TRIAL, cwd=folder / "empty")
    if str(site) not in tried:
        sys.exit(f"{file.name}: another multigrain was tried: {tried}")
    print(f"{file.name}: {', '.join(version.splitlines())}; {tried.partition(', /')[0]}")


def main() -> None:
    """Try the wheel and the source distribution in the folder that is given."""
    folder = Path(sys.argv[1])
    files = sorted(folder.glob("*.whl")) + sorted(folder.glob("*.tar.gz"))
    if [file.suffix for file in files] != [".whl", ".gz"]:
        sys.exit(f"{folder}: found {[file.name for file in files]}; wanted one wheel and one source distribution")
    about = next(metadata.distributions(path=[str(files[0])]))
    readme = str(about.metadata.get_payload())
    if "](https://github.com/" not in readme:
        sys.exit(f"{files[0]}: its README is missing, or has no links to the repository")
    if links := re.findall(r"\]\((?!https?:|#)[^)]*\)", readme):
        sys.exit(f"{files[0]}: a package index shows its README, where these links would lead nowhere: {links}")
    requires = [line for line in about.requires or [] if "extra ==" not in line]
    for file in files:
        with tempfile.TemporaryDirectory() as place:
            try_one(file, requires, Path(place))


if __name__ == "__main__":
    main()
