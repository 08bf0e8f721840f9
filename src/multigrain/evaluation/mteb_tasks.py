"""Measure models on tasks and benchmarks of the package mteb, or describe them to mteb's own runner.

    measure("SciFact", load_model("runs/x/model"), Path("results"))
    mteb.evaluate(model_meta("runs/x/model"), mteb.get_task("SciFact"))

Queries get the model's query prompt and documents its document prompt, as everywhere in multigrain
(`multigrain.model.roles.prompt_for`). Other texts (in similarity, classification and so on) get the prompt that mteb
gives them: the model's prompt under the name of the task or its type ("STS"), or else the model's default prompt, or
else none.

If the model was trained with instructions, queries get the instruction of the task, and so do other texts without such
a prompt: the given one, the one in mteb's description of the task, or mteb's for all tasks of its kind.

Neither torch nor mteb is imported before something is measured.
"""

import difflib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from multigrain.errors import ConfigError
from multigrain.evaluation.mteb_data import parts_of, with_data
from multigrain.evaluation.mteb_encoder import Encoder, load, source_of
from multigrain.extras import require_extra
from multigrain.files import write_atomic
from multigrain.terminal import Meter, meter, say

if TYPE_CHECKING:
    from mteb import ResultCache, TaskResult
    from mteb.abstasks import AbsTask
    from mteb.models import ModelMeta
    from sentence_transformers import SentenceTransformer

LETTERS_PER_TOKEN = 4
"""Assumed length of a token of the tasks' texts."""


SHOWN = 3
"""Number of likely names in a message."""


def measure(
    name: str,
    model: "SentenceTransformer",
    results: Path,
    data: Path | None = None,
    batch_size: int = 32,
    *,
    instructions: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Measure a model on a task or benchmark; return the main score of each task, from 0 (for some, -1) to 1, by name.

    Results already in `results`, for the same model and the same data, are not measured again.

    Args:
        name: the name of a task or benchmark.
        model: the model, which has its prompts and its maximum length.
        results: the folder of mteb's own files (its `ResultCache`).
        data: a folder of data sets, each at OWNER/NAME; other data sets are downloaded from the hub.
        batch_size: number of texts encoded at once.
        instructions: instructions in place of mteb's own, by the name of the task, for a model trained with
            instructions.

    Raises:
        RunError: mteb is not installed.
        ConfigError: mteb has no such task, or the task is not text-only.
        DataError: a data set cannot be loaded.
    """
    require_extra("mteb")
    from mteb import ResultCache

    tasks = _tasks(name)
    encoder = Encoder(model, source_of(model), instructions)
    cache = ResultCache(results)
    scores: dict[str, float] = {}
    with _quiet(), meter(f"mteb:{name}", len(tasks)) as progress:
        for task in tasks:
            encoder.report = _reporter(progress, len(scores), task.metadata.name)
            result = _run(with_data(task, data), encoder, cache, batch_size)
            score = result.get_score()
            scores[task.metadata.name] = float(score)
            progress.reach(len(scores), {})
            say(f"  {len(scores)}/{len(tasks)} {task.metadata.name}: {task.metadata.main_score} {score:.4f}")
    _describe_model(encoder.mteb_model_meta, cache)
    return scores


def _describe_model(model: "ModelMeta", cache: "ResultCache") -> None:
    """Write mteb's description of the model beside its results.

    mteb writes it after each result, but not atomically, and not again once all results are there.
    """
    path = cache.get_task_result_path("", model).with_name("model_meta.json")
    write_atomic(path, json.dumps(model.to_dict(), default=str, indent=4).encode())


def check_names(names: Iterable[str], instructed: Iterable[str] = ()) -> None:
    """Check that mteb has these tasks and benchmarks.

    Args:
        names: the names of tasks and benchmarks.
        instructed: the names of tasks with a given instruction, which must be among them.

    Raises:
        RunError: mteb is not installed.
        ConfigError: mteb has no such task, the task is not text-only, or an instruction is for another task.
    """
    require_extra("mteb")
    measured: set[str] = set()
    faults: list[str] = []
    for name in names:
        try:
            measured |= {task.metadata.name for task in _tasks(name)}
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError("evaluation.tasks", faults)
    if unknown := [name for name in instructed if name not in measured]:
        faults = [
            f'"mteb:{name}" is not among the tasks of evaluation.tasks; wanted one such as '
            f'"mteb:{(_nearest_names(name, measured) or sorted(measured))[0]}"'
            for name in unknown
        ]
        raise ConfigError("evaluation.instructions", faults)


def tokens_of(names: Iterable[str]) -> int:
    """Return the approximate number of tokens of the texts of tasks and benchmarks, which mteb's package describes.

    Tasks that it does not describe count nothing.

    Raises:
        RunError: mteb is not installed.
        ConfigError: mteb has no such task, or the task is not text-only.
    """
    require_extra("mteb")
    tasks = {task.metadata.name: task.metadata for name in names for task in _tasks(name)}
    described = ((metadata, metadata.descriptive_stats or {}) for metadata in tasks.values())
    letters = (_letters(stats.get(split)) for metadata, stats in described for split in metadata.eval_splits)
    return sum(letters) // LETTERS_PER_TOKEN


def _letters(stats: Any) -> int:
    """Return the total length of all texts in mteb's statistics of a split, however deep they are."""
    if not isinstance(stats, dict):
        return 0
    return sum(
        value if key == "total_text_length" and isinstance(value, int) else _letters(value)
        for key, value in stats.items()
    )


def model_meta(folder: str | Path) -> "ModelMeta":
    """Describe a model saved by multigrain to mteb's own runner, which loads the model when it needs it.

    >>> mteb.evaluate(model_meta("runs/x/model"), mteb.get_task("SciFact"))  # doctest: +SKIP

    Raises:
        RunError: mteb is not installed, or there is no model in the folder.
    """
    require_extra("mteb")
    from multigrain.model.load import load_model

    # The folder is bound to the loader, not an argument of it, because mteb writes the arguments beside the results.
    loader = partial(load, Path(folder).resolve())
    return Encoder(load_model(folder), str(folder)).mteb_model_meta.model_copy(update={"loader": loader})


def _tasks(name: str) -> "list[AbsTask]":
    """Return the task of this name, or the tasks of the benchmark.

    Raises:
        ConfigError: mteb has neither under this name, or a task is not text-only.
    """
    from mteb import __version__, get_benchmark, get_benchmarks, get_task
    from mteb.get_tasks import TASK_LIST

    names = {task.metadata.name for task in TASK_LIST}
    known = set(names)
    for benchmark in get_benchmarks():
        known |= {benchmark.name, *(benchmark.aliases or ())}
    if name not in known:
        likely = _nearest_names(name, known) or ["SciFact", "MTEB(eng, v2)"]
        found = f'"mteb:{name}": the installed mteb {__version__} has no such task or benchmark'
        wanted = f"wanted one such as {' or '.join(likely)}, or another version of mteb"
        raise ConfigError("evaluation.tasks", [f"{found}; {wanted}"])
    tasks = [get_task(name)] if name in names else list(get_benchmark(name).tasks)
    if others := [task.metadata.name for task in tasks if set(task.metadata.modalities) != {"text"}]:
        raise ConfigError("evaluation.tasks", [f'"mteb:{name}": {others[0]} is not a text-only task'])
    return tasks


def _nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most like a name, whatever their case; else a few that contain it."""
    names = {other.casefold(): other for other in sorted(known)}
    own = name.casefold()
    near = difflib.get_close_matches(own, names) or [other for other in names if own in other][:SHOWN]
    return [names[other] for other in near]


def _run(task: "AbsTask", encoder: Encoder, cache: "ResultCache", batch_size: int) -> "TaskResult":
    """Measure the missing parts of a task, and read its result.

    Even a new result is read from its file, because the file rounds it: a resumed call then returns the same.
    """
    import mteb

    model = encoder.mteb_model_meta
    parts = parts_of(task)
    for part in parts:
        _run(part, encoder, cache, batch_size)
    if parts:  # their mean may be outdated
        cache.get_task_result_path(task.metadata.name, model).unlink(missing_ok=True)
    options: Any = {"batch_size": batch_size, "show_progress_bar": False}
    mteb.evaluate(
        cast(Any, encoder),
        task,
        encode_kwargs=options,
        cache=cache,
        overwrite_strategy=_strategy(task, model, cache),
        co2_tracker=False,
        show_progress_bar=False,
    )
    kept = cache.load_task_result(task.metadata.name, model, raise_if_not_found=True)
    return cast("TaskResult", kept).validate_and_filter_scores(task)


def _strategy(task: "AbsTask", model: "ModelMeta", cache: "ResultCache") -> str:
    """Decide whether mteb may resume from a stored result: not if kill -9 cut the file off, nor if its data differ.

    Left to itself, mteb fails on the former and accepts the latter.
    """
    try:
        kept = cache.load_task_result(task.metadata.name, model)
    except ValueError:
        return "always"
    other = kept is not None and kept.dataset_revision != task.metadata.revision
    return "always" if other else "only-missing"


def _reporter(progress: Meter, done: int, task: str) -> Callable[[int], object]:
    """Return a function that counts the texts of a task as they are encoded."""
    encoded = 0

    def report(texts: int) -> None:
        nonlocal encoded
        encoded += texts
        progress.reach(done, {"now": task, "texts": encoded})

    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars of the library that loads data sets, and mteb's advice on which tasks to choose."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars = not are_progress_bars_disabled()
    logger = logging.getLogger("mteb")
    level = logger.level
    disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mteb")
            yield
    finally:
        logger.setLevel(level)
        if had_bars:
            enable_progress_bars()
