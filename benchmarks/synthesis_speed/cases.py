"""Define the cases for the engines: one function per case.

Every measurement has its own mock server in a separate process, which draws the same faults for every engine. All
engines may have 64 requests under way. A case returns plain figures; `DEFINITIONS` explains them.
"""

import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from tests.mock_server import Behaviour

from benchmarks.shared.process_tree import ProcessTree
from benchmarks.synthesis_speed.engines import CONCURRENCY, GRADES, Engine, Outcome, Work

ROOT = Path(__file__).parents[2]
LATENCY = 0.1
SHORT_LATENCY = 0.005
FAULTS = {"busy": 0.05, "error": 0.05, "malformed": 0.05, "cut": 0.05}
KILLS = 20
OUTAGE_SECONDS = 30
CAPPED_RUNS = 10
PRICES = {"input": 0.5, "output": 2.0}
DISCOVERED_EVERY = 0.01
"""Seconds between two reads of the server's counts, if something is to happen at a certain count."""
LONGEST = 1800.0
"""Seconds, for the cases of multigrain alone."""

Figures = dict[str, Any]

DEFINITIONS = {
    "wall_seconds": "from the start of the command to its end: imports, reading and writing included",
    "window_seconds": "from the first request for an input to the last answer, by the server's clock",
    "share_of_ideal": f"inputs x latency / {CONCURRENCY} / window_seconds",
    "requests": "all that reached the server, probes included",
    "answers": "whole, well-formed answers that left the server, probes included",
    "throughput": "answers / window_seconds",
    "start_cpu_seconds": "user and system time of the whole process tree before the first request for an input",
    "cpu_seconds_per_1000_requests": "user and system time of the whole process tree from then to the end of the "
    "command, / requests x 1000; from /proc every 50 ms, and from wait4 at the end",
    "memory_mb": "highest sum of PSS over the process tree, looked at every 200 ms",
    "answered_inputs": "inputs for which the engine hands over the four texts, all of them whole",
    "inputs_with_reason": "inputs without them for which it says why",
    "lost_inputs": "inputs with neither",
    "wall_of_ideal": f"wall_seconds / (requests x latency / {CONCURRENCY})",
    "paid_twice": "whole answers to an input that had one already",
    "resumed": "the same command came to an end after the kill, with fewer requests than there are inputs",
}


@dataclass(frozen=True)
class Setting:
    """The settings of a measurement.

    Attributes:
        engine: the measured engine.
        inputs: the number of inputs.
        repeat: number of the repetition, from 0; seeds the faults.
        environments: the folder with the environments of other engines.
        limit: seconds after which a command is stopped.
    """

    engine: Engine
    inputs: int
    repeat: int
    environments: Path
    limit: float

    @property
    def seed(self) -> int:
        """Seed of the faults that the server makes."""
        return self.repeat + 1

    def start(self, work: Work, server: "Server", *options: str) -> ProcessTree:
        """Start the engine's command."""
        return self.engine.start(work, server.url, self.environments, *options)


class Server:
    """The mock server in a separate process."""

    def __init__(self, behaviour: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.mock_server", json.dumps(behaviour)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # its log is discarded: it complains about every killed client
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def stats(self) -> SimpleNamespace:
        """Return the server's counts so far: the fields of `mock_server.Stats`."""
        return SimpleNamespace(**json.load(self._opener.open(f"{self.url}/stats", timeout=30)))

    def settled(self) -> SimpleNamespace:
        """Return the server's counts once the requests of a killed engine have ended too."""
        time.sleep(3 * LATENCY)
        return self.stats()

    def fall_silent(self, seconds: float) -> None:
        """Close the port for a while."""
        request = urllib.request.Request(f"{self.url}/outage?seconds={seconds}", method="POST")
        self._opener.open(request, timeout=30).read()

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextmanager
def arena(setting: Setting, inputs: int, **behaviour: float) -> Iterator[tuple[Work, Server]]:
    """Yield a new folder with inputs, and a new server."""
    server = Server({"latency": LATENCY, "seed": setting.seed, **behaviour})
    try:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Work(Path(folder), inputs), server
    finally:
        server.close()


# Every engine


def clean(setting: Setting) -> Figures:
    """A server without faults."""
    return _undisturbed(setting)


def faults(setting: Setting) -> Figures:
    """5 % each of 429, 500, malformed and cut answers, per attempt."""
    return _undisturbed(setting, **FAULTS)


def busy(setting: Setting) -> Figures:
    """5 % of 429 alone."""
    return _undisturbed(setting, busy=FAULTS["busy"])


def killed(setting: Setting) -> Figures:
    """SIGKILL to all of it once half of the inputs are answered, then the same command again."""
    with arena(setting, setting.inputs) as (work, server):
        first = setting.start(work, server)
        reached = _answers_reach(setting.inputs // 2, first, server, setting.limit)
        first.kill()
        before = server.settled()
        if not reached:
            return {"note": f"no kill: {before.answered} answers, then: {first.last_line()}"}
        figures = _run(setting, work, server)
        sent = figures["requests"] - before.requests
        kept = ("requests", "answers", "finished", "exit_code", "note")
        return {
            **{name: value for name, value in figures.items() if name in kept or "inputs" in name},
            "wall_seconds_after": figures["wall_seconds"],
            "answers_before": before.answered,
            "requests_after": sent,
            "paid_twice": server.stats().again,
            "resumed": figures["finished"] and sent < setting.inputs,
        }


def _undisturbed(setting: Setting, **behaviour: float) -> Figures:
    with arena(setting, setting.inputs, **behaviour) as (work, server):
        return _run(setting, work, server)


def _run(setting: Setting, work: Work, server: Server) -> Figures:
    """One command from its start to its end, or to the limit."""
    tree = setting.start(work, server)
    finished = tree.wait(setting.limit)
    tree.kill()  # also orphaned processes
    stats = server.stats()
    return {
        **_speed(setting.inputs, tree, stats),
        **(_results(setting.inputs, setting.engine.outcome(work)) if finished else {}),
        "finished": finished,
        "exit_code": tree.exit_code,
        "faults": stats.faults,
        "note": _note(setting, tree, stats, finished),
    }


def _speed(inputs: int, tree: ProcessTree, stats: SimpleNamespace) -> Figures:
    assert tree.ended
    window, wall = stats.last_answer - stats.first_request, tree.ended - tree.started
    start = tree.cpu_at(stats.first_request or tree.ended)
    return {
        "wall_seconds": round(wall, 2),
        "window_seconds": round(window, 2),
        "share_of_ideal": round(inputs * LATENCY / CONCURRENCY / window, 3) if stats.answered >= inputs else None,
        "requests": stats.requests,
        "answers": stats.answered,
        "throughput": round(stats.answered / window, 1) if window > 0 else None,
        "wall_of_ideal": round(wall / (stats.requests * LATENCY / CONCURRENCY), 2) if tree.exit_code == 0 else None,
        "start_cpu_seconds": round(start, 2),
        "cpu_seconds_per_1000_requests": round((tree.cpu - start) / max(1, stats.requests) * 1000, 3),
        "memory_mb": round(tree.memory / 2**20),
        "most_under_way": stats.most_under_way,
    }


def _results(inputs: int, outcome: Outcome) -> Figures:
    whole = {name for name, texts in outcome.texts.items() if _is_whole(texts)}
    reasons = outcome.reasons.keys() - whole
    return {
        "answered_inputs": len(whole),
        "inputs_with_reason": len(reasons),
        "lost_inputs": inputs - len(whole) - len(reasons),
    }


def _is_whole(texts: list[str]) -> bool:
    return len(texts) == len(GRADES) and all(len(text.split()) == Behaviour().words for text in texts)


def _note(setting: Setting, tree: ProcessTree, stats: SimpleNamespace, finished: bool) -> str:
    if not finished:
        return f"stopped after {setting.limit:g} s with {stats.answered} answers"
    return f"exit code {tree.exit_code}: {tree.last_line()}" if tree.exit_code else ""


def _answers_reach(count: int, tree: ProcessTree, server: Server, limit: float) -> bool:
    """Wait until so many good answers left the server; return False if the command or the time ends first."""
    while time.time() < tree.started + limit:
        if server.stats().answered >= count:
            return tree.exit_code is None
        if tree.exit_code is not None:
            return False
        time.sleep(DISCOVERED_EVERY)
    return False


# multigrain alone


def memory(setting: Setting) -> Figures:
    """Peak RSS of `multigrain synthesize` at 1 and at 100 times the inputs; the data stage is done before."""
    figures: Figures = {}
    for inputs in (setting.inputs, 100 * setting.inputs):
        with arena(setting, inputs, latency=SHORT_LATENCY) as (work, server):
            _end(setting.start(work, server, "--quiet", "--set", "synthesis.limit=0"))
            tree = _end(setting.start(work, server, "--force"))  # the limit has changed
            figures[f"peak_rss_mb at {inputs} inputs"] = round(tree.peak_rss / 2**20)
            figures[f"wall_seconds at {inputs} inputs"] = round((tree.ended or 0) - tree.started, 1)
            figures[f"answers at {inputs} inputs"] = server.stats().answered
    return figures


def kills(setting: Setting) -> Figures:
    """SIGKILL at 20 random moments of one run, then to its end; compared with a run that nobody disturbed."""
    draw = random.Random(setting.repeat)
    counts = sorted(draw.randrange(1, setting.inputs) for _ in range(KILLS))
    again, answered, under_way = [0], 0, 0
    with arena(setting, setting.inputs) as (work, server):
        for count in counts:
            tree = setting.start(work, server)
            _answers_reach(max(count, answered + 1), tree, server, LONGEST)
            time.sleep(draw.uniform(0, LATENCY))
            under_way += tree.exit_code is None
            tree.kill()
            stats = server.settled()
            answered = stats.answered
            again.append(stats.again)
        _end(setting.start(work, server))
        stats, disturbed = server.stats(), _candidates(work)
        results = _results(setting.inputs, setting.engine.outcome(work))
    with arena(setting, setting.inputs) as (work, server):
        _end(setting.start(work, server))
        same = disturbed == _candidates(work)
    again.append(stats.again)
    paid = [after - before for before, after in pairwise(again)]
    return {
        **results,
        "kills": under_way,
        "paid_twice": stats.again,
        "paid_twice_after_each_kill": paid[1:],
        "most_paid_twice_after_a_kill": max(paid),
        "requests": stats.requests,
        "same_candidates": same,
    }


def outage(setting: Setting) -> Figures:
    """The server is gone for 30 s, once half of the inputs are answered."""
    with arena(setting, setting.inputs) as (work, server):
        tree = setting.start(work, server)
        _answers_reach(setting.inputs // 2, tree, server, LONGEST)
        server.fall_silent(OUTAGE_SECONDS)
        _end(tree)
        stats = server.stats()
        return {
            **_speed(setting.inputs, tree, stats),
            **_results(setting.inputs, setting.engine.outcome(work)),
            "paid_twice": stats.again,
            "exit_code": tree.exit_code,
        }


def caps(setting: Setting) -> Figures:
    """Ten runs with faults and a random cap on requests, tokens or cost, held against the server's own counts."""
    draw = random.Random(setting.repeat)
    runs = [_capped(setting, draw, min(setting.inputs, 400)) for _ in range(CAPPED_RUNS)]
    return {
        "runs": runs,
        "caps_passed": sum(run["spent"] > run["cap"] for run in runs),
        "largest_share_of_cap": max(run["spent"] / run["cap"] for run in runs),
        "least_share_of_cap": min(run["spent"] / run["cap"] for run in runs),
    }


def _capped(setting: Setting, draw: random.Random, inputs: int) -> Figures:
    name = draw.choice(["requests", "tokens", "cost"])
    each = {"requests": 1.0, "tokens": 390.0, "cost": 4e-4}[name]  # roughly, for one request
    cap = draw.uniform(0.05, 0.9) * inputs * each
    cap = round(cap, 6) if name == "cost" else int(cap)
    settings = [f"llm.prices.{kind}={price}" for kind, price in PRICES.items()] + [f"llm.max_{name}={cap}"]
    with arena(setting, inputs, latency=0.02, **FAULTS) as (work, server):
        tree = _end(setting.start(work, server, *(part for text in settings for part in ("--set", text))))
        stats = server.stats()
        results = _results(inputs, setting.engine.outcome(work))
    written = stats.completion_tokens
    cost = ((stats.tokens - written) * PRICES["input"] + written * PRICES["output"]) / 1e6
    spent = {"requests": stats.requests, "tokens": stats.tokens, "cost": round(cost, 6)}[name]
    return {"capped": name, "cap": cap, "spent": spent, "inputs": inputs, "exit_code": tree.exit_code, **results}


def _end(tree: ProcessTree) -> ProcessTree:
    """Wait for the end.

    Raises:
        RuntimeError: it does not come, or the command fails.
    """
    came = tree.wait(LONGEST)
    tree.kill()
    if not came or tree.exit_code not in (0, 3):
        raise RuntimeError(f"exit code {tree.exit_code}: {tree.last_line()}")
    return tree


def _candidates(work: Work) -> bytes:
    return (work.folder / "runs" / "run" / "synthesis" / "candidates.jsonl").read_bytes()


Case = Callable[[Setting], Figures]
SHARED: dict[str, Case] = {case.__name__: case for case in (clean, faults, busy, killed)}
OWN: dict[str, Case] = {case.__name__: case for case in (memory, kills, outage, caps)}
