"""Install, start and read the compared engines.

Every other engine has one small script here, `SCRIPT PROMPTS OUTCOME URL CONCURRENCY`, that follows the engine's
documentation, and its own environment. All engines get the same prompts. The outcome has one JSON object per line, with
`id` and either `texts`, the four texts of the answer, or `reason`.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mock_server import WORDS

from benchmarks.shared.process_tree import ProcessTree
from multigrain.config import Config
from multigrain.data.jsonl import read_objects
from multigrain.records import Pair
from multigrain.synthesis.negatives import plan_negatives
from multigrain.version import __version__

HERE = Path(__file__).parent
GRADES = [1, 2, 3, 4]
CONCURRENCY = 64
NOWHERE = "http://127.0.0.1:9"
QUIET = {
    "DO_NOT_TRACK": "1",
    "TELEMETRY_ENABLED": "false",  # curator
    "NEMO_TELEMETRY_ENABLED": "false",  # DataDesigner
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "DISTILABEL_LOG_LEVEL": "WARNING",
    "OPENAI_API_KEY": "none",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), NOWHERE),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}
"""Settings for every engine: no telemetry, little log, and no network beyond this machine."""
UNWANTED = ("PYTHONPATH", "PYTHONHOME", "OPENAI_BASE_URL", "OPENAI_API_BASE")

RUN = """name = "run"
output = "runs"
[data]
pairs = "pairs.jsonl"
held_out = ["held out"]
[llm]
provider = "endpoint"
base_url = {url}
model = "mock"
max_concurrency = {concurrency}
[synthesis]
prompt_style = "all-grades"
[mining]
enabled = false
"""


@dataclass(frozen=True)
class Work:
    """A folder with the inputs of one measurement, in the forms that the engines read; also the engine's home."""

    folder: Path
    inputs: int

    def __post_init__(self) -> None:
        """Write the inputs."""
        with (self.folder / "pairs.jsonl").open("w") as pairs, (self.folder / "prompts.jsonl").open("w") as prompts:
            for pair, prompt in zip(_pairs(self.inputs), _prompts(self.inputs), strict=True):
                pairs.write(json.dumps({"id": pair.id, "query": pair.query, "positive": pair.positive, "source": "x"}))
                pairs.write("\n")
                prompts.write(json.dumps({"id": pair.id, "prompt": prompt}) + "\n")
            held_out = {"query": "is it held out", "positive": "it is held out", "source": "held out"}
            pairs.write(json.dumps(held_out) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of an engine."""
        kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
        return kept | QUIET | {"HOME": str(self.folder)}


def _prompts(count: int) -> Iterator[str]:
    """Yield the prompt of multigrain for each pair."""
    config = Config.model_validate(tomllib.loads(RUN.format(url='"http://127.0.0.1"', concurrency=CONCURRENCY)))
    return (prompted.request.prompt for prompted in plan_negatives(config, lambda: _pairs(count), count, "mock"))


def _pairs(count: int) -> Iterator[Pair]:
    words = WORDS.split()
    for number in range(count):
        draw = random.Random(number)
        query = f"what is item-{number} {' '.join(draw.choices(words, k=8))}"
        yield Pair(f"item-{number}", query, f"item-{number} is {' '.join(draw.choices(words, k=40))}")


@dataclass(frozen=True)
class Outcome:
    """The outcome of an engine: the texts of answered inputs, and the reasons for the others."""

    texts: dict[str, list[str]]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Engine:
    """A compared engine.

    Attributes:
        name: its name in the tables.
        requirements: the packages to install; the first one gives its version. None: those installed here.
        script: its file in this folder.
    """

    name: str
    requirements: tuple[str, ...] = ()
    script: str = ""

    def start(self, work: Work, url: str, environments: Path, *options: str) -> ProcessTree:
        """Start its command; started again, it resumes as far as it can."""
        if self.requirements:
            python = environments.absolute() / self.name / "bin" / "python"
            files = ["prompts.jsonl", "outcome.jsonl"]
            command = [str(python), str(HERE / self.script), *files, url, str(CONCURRENCY)]
        else:
            (work.folder / "run.toml").write_text(RUN.format(url=json.dumps(url), concurrency=CONCURRENCY))
            command = [sys.executable, "-m", "multigrain", "synthesize", "run.toml", *options]
        return ProcessTree(command, work.environment, work.folder, work.folder / "log.txt")

    def outcome(self, work: Work) -> Outcome:
        """Read the engine's output."""
        return _peer_outcome(work) if self.requirements else _own_outcome(work)

    def install(self, environments: Path) -> dict[str, str]:
        """Make sure that its environment exists; return versions.

        Raises:
            SystemExit: the environment has another version, or contains torch.
        """
        if not self.requirements:
            return {"multigrain": __version__}
        folder = environments / self.name
        if not (folder / "bin" / "python").exists():
            _make_environment(folder, self.requirements)
        found = _versions(folder / "bin" / "python")
        name, _, wanted = self.requirements[0].partition("==")
        name = name.partition("[")[0]
        if found.get(name) != wanted or "torch" in found:
            raise SystemExit(f"{folder}: has {name} {found.get(name)}, wanted {wanted} and no torch. Delete it.")
        return {key: found[key] for key in (name, "openai", "aiohttp", "httpx", "httpx2", "pydantic") if key in found}


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("multigrain"),
        Engine("openai", ("openai==3.54.0",), "openai_loop.py"),
        Engine("distilabel", ("distilabel[openai]==1.5.3", "requests"), "distilabel_engine.py"),
        Engine("curator", ("bespokelabs-curator==0.1.31",), "curator_engine.py"),
        Engine("datadesigner", ("data-designer==0.9.6",), "datadesigner_engine.py"),
    )
}


def _make_environment(folder: Path, requirements: tuple[str, ...]) -> None:
    print(f"making {folder}", flush=True)
    venv.create(folder, with_pip=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("torch<0\n")  # a package that needs torch fails to install
        constraints.flush()
        python = str(folder / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints.name, *requirements], check=True)


def _versions(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m; print(*(f'{d.name.lower()}={d.version}' for d in m.distributions()))"
    found = subprocess.check_output([str(python), "-c", code], text=True).split()
    return dict(entry.split("=", 1) for entry in found)


def _own_outcome(work: Work) -> Outcome:
    folder = work.folder / "runs" / "run" / "synthesis"
    texts: dict[str, list[str]] = {}
    for fields in _objects(folder / "candidates.jsonl"):
        texts.setdefault(fields["pair_id"], []).append(fields["text"])
    return Outcome(texts, {fields["pair_id"]: fields["reason"] for fields in _objects(folder / "parked.jsonl")})


def _peer_outcome(work: Work) -> Outcome:
    found = list(_objects(work.folder / "outcome.jsonl"))
    return Outcome(
        {fields["id"]: fields["texts"] for fields in found if "texts" in fields},
        {fields["id"]: fields["reason"] for fields in found if "reason" in fields},
    )


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (fields for _, fields in read_objects(path))
