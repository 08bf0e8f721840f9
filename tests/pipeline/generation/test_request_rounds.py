"""Exported requests of runs whose pairs are written too: each round has the requests that the answers so far determine.

The answers are those of the scripted language model, so that a run with it is what the imports must come to.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from multigrain.config import Config, load_config
from multigrain.errors import ConfigError, RunError
from multigrain.llm.clients import scripted
from multigrain.llm.prompted_input import Prompted
from multigrain.pipeline import verbs
from multigrain.pipeline.generation import ask
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.generation.request_shards import MANIFEST
from multigrain.pipeline.run_dir import RunDir
from tests.conftest import as_lines
from tests.pipeline.generation.test_request_shards import NOWHERE, answer, shards_of
from tests.pipeline.stages import test_pairs as one_source
from tests.pipeline.stages import test_written_sources as several_sources
from tests.pipeline.stages.test_written_sources import GIVEN, WRITTEN

write_run = one_source.write_run
write_run_of_sources = several_sources.write_run
BY_FILES = ["name=files", "llm.provider=endpoint", f"llm.base_url={NOWHERE}", "llm.model=scripted"]


@pytest.fixture(autouse=True)
def _judge_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pairs", "synthesize", "grade"):
        monkeypatch.setattr(f"multigrain.pipeline.stages.{name}.judge_encoder", lambda *_: one_source.embed)


class Engine:
    """Exports the requests of a run into folders of their own, and answers them from a script."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self._folder, self._rounds = config, folder, 0
        self.said = ""
        """The report of the last command."""
        self.step = ""
        """What the last export says that its requests are for."""

    def export(self, force: bool = False) -> list[Prompted[Any]]:
        self._rounds += 1
        requests = self._folder / f"requests{self._rounds}"
        self.said = verbs.export_requests(self.config, 2, requests, force)
        if not requests.exists():
            return []
        self.step = json.loads((requests / MANIFEST).read_text())["step"]
        run_dir = RunDir(self.config.folder)
        known = ask.known_prompts(with_known_style(self.config, run_dir), run_dir)
        prompts = {prompted.request.key: prompted for prompted in known}
        return [prompts[line["custom_id"]] for shard in shards_of(requests) for line in shard]

    def answer(self, asked: Collection[Prompted[Any]]) -> None:
        """Import the answers in two steps, as if two machines had given them."""
        for number, half in enumerate((list(asked)[::2], list(asked)[1::2])):
            if half:
                bodies = [{"choices": [{"message": {"content": scripted._reply(each.request)}}]} for each in half]
                lines = [answer({"custom_id": each.request.key}, body) for each, body in zip(half, bodies, strict=True)]
                path = self._folder / f"answers{self._rounds}-{number}.jsonl"
                path.write_text(as_lines(lines))
                self.said = verbs.import_answers(self.config, [path])

    @property
    def is_done(self) -> bool:
        return "every request is answered or parked" in self.said


def sources_of(asked: Collection[Prompted[Any]]) -> Counter[str]:
    return Counter(prompted.input.partition("/")[0] for prompted in asked)


@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        ("corpus", ["writing queries", "writing negatives"]),
        ("tasks", ["brainstorming tasks", "inventing pairs", "writing negatives"]),
    ],
)
@pytest.mark.parametrize("style", ["auto", "per-grade"])
def test_a_run_without_pairs_takes_several_rounds(
    mode: str, steps: list[str], style: str, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_run(mode)
    asked = load_config(path, [f"synthesis.prompt_style={'per-grade' if style != 'auto' else 'all-grades'}"])
    verbs.synthesize(asked)
    config = load_config(path, [*BY_FILES, f"synthesis.prompt_style={style}"])
    engine = Engine(config, tmp_path)
    for step in steps:
        requests = engine.export()
        assert engine.step == step
        assert ("Later requests depend on these answers" in engine.said) is (step != "writing negatives")
        engine.answer(requests)
        assert engine.is_done is (step != "brainstorming tasks")  # whose answers determine the requests for pairs
    assert engine.export() == []
    assert "nothing to export" in engine.said
    verbs.synthesize(config)  # no server is there
    for name in ("train_pairs", "held_out_pairs", "candidates"):
        expected = getattr(RunDir(asked.folder), name).read_bytes()
        assert getattr(RunDir(config.folder), name).read_bytes() == expected


def test_given_and_written_sources_take_rounds_together(
    write_run_of_sources: Callable[..., Path], tmp_path: Path
) -> None:
    """Each round has the next requests of every written source; the last has the negatives of all pairs."""
    path = write_run_of_sources(GIVEN, *WRITTEN.values())
    asked = load_config(path, ["synthesis.prompt_style=all-grades"])
    verbs.run(asked)
    config = load_config(path, [*BY_FILES, "synthesis.prompt_style=auto"])
    engine = Engine(config, tmp_path)
    requests = engine.export()
    assert engine.step == "writing pairs"
    assert sources_of(requests) == {"invented": 10, "manual": 40}
    assert "Later requests depend on these answers" in engine.said
    lost = [requests[0], *requests[-2:]]
    engine.answer([prompted for prompted in requests if prompted not in lost])
    assert "writing pairs: 3 requests open" in engine.said

    requests = engine.export()  # one task is not named yet, so no pairs are asked for
    assert [prompted.input for prompted in requests] == [prompted.input for prompted in lost]
    engine.answer(requests[:2])
    assert "writing pairs: 29 requests open" in engine.said

    requests = engine.export()
    assert sources_of(requests) == {"invented": 7 * 4, "manual": 1}
    engine.answer(requests)
    assert engine.is_done
    assert "Later requests depend on these answers" in engine.said

    requests = engine.export()
    assert engine.step == "writing negatives"
    assert len(requests) == 8 * 4  # steps of four pairs
    assert sources_of(requests).keys() == {"public", "invented", "manual"}
    engine.answer(requests)
    assert engine.is_done
    assert engine.export() == []
    verbs.run(config)  # no server is there
    assert made(config) == made(asked)


def made(config: Config) -> dict[str, bytes]:
    """What must be the same however the run came about."""
    names = ("grading/tuples.jsonl", "model/model.safetensors", "evaluation/per_query.jsonl")
    return several_sources.files_of(config.folder) | {name: (config.folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("command", ["export", "batch"])
def test_tasks_that_leave_no_room_for_a_query_are_told_before_their_pairs_are_paid_for(
    command: str, write_run_of_sources: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_run_of_sources(GIVEN, WRITTEN["tasks"])
    config = load_config(path, [*BY_FILES, "model.max_tokens=8"])
    engine = Engine(config, tmp_path)
    engine.answer(engine.export())
    assert "inventing pairs: 28 requests open" in engine.said
    with pytest.raises(ConfigError, match=r"model.max_tokens: found 8, but .* of a search task takes \d+ tokens"):
        verbs.batch(config, "write") if command == "batch" else engine.export()
    assert [path.name for path in tmp_path.glob("requests*")] == ["requests1"]
    assert list((config.folder / "synthesis").rglob("batch-*")) == []


def test_tasks_that_are_asked_for_in_a_batch_hold_back_their_pairs(
    write_run_of_sources: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_config(write_run_of_sources(GIVEN, WRITTEN["tasks"]), BY_FILES)
    engine = Engine(config, tmp_path)
    requests = engine.export()
    engine.answer(requests[:6])
    verbs.batch(config, "write")
    with pytest.raises(RunError, match="4 inputs are in a batch"):
        engine.export()


def test_other_settings_of_the_pairs_begin_with_the_pairs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    path = write_run("corpus")
    engine = Engine(load_config(path, BY_FILES), tmp_path)
    engine.answer(engine.export())
    assert len(engine.export()) > 0
    assert engine.step == "writing negatives"
    engine.config = load_config(path, [*BY_FILES, "synthesis.language=German"])
    with pytest.raises(ConfigError, match="--force"):
        engine.export()
    assert len(engine.export(force=True)) == 40
    assert engine.step == "writing queries"
