"""Tasks and benchmarks of the package mteb, measured with our models; and our models, for mteb's own runner.

    measure("SciFact", load_model("runs/x/model"), Path("results"))
    mteb.evaluate(model_meta("runs/x/model"), mteb.get_task("SciFact"))

A query has the model's query prompt before it and a document its document prompt, as in all that multigrain does
(`multigrain.model.roles.prompt_for`). Where neither is asked for (similarity, classification and so on) a text
has what mteb gives it: the prompt that the model keeps under the name of the task or of its type ("STS"), or else
the model's default prompt, or else none.

Neither torch nor mteb is imported before something is measured.
"""

import copy
import difflib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from multigrain.errors import ConfigError, DataError, first_line
from multigrain.extras import require_extra
from multigrain.model.encode import encode_by_length
from multigrain.model.roles import Role, Vectors, prompt_for
from multigrain.terminal import Meter, meter, say

if TYPE_CHECKING:
    from mteb import ResultCache, TaskMetadata, TaskResult
    from mteb.abstasks import AbsTask
    from mteb.models import ModelMeta
    from mteb.types import Array, PromptType
    from sentence_transformers import SentenceTransformer


def measure(
    name: str, model: "SentenceTransformer", results: Path, data: Path | None = None, batch_size: int = 32
) -> dict[str, float]:
    """The main score of each task, 0 to 1 (of some -1 to 1), by its name.

    What is in `results` already, for the same model and the same data, is not measured again.

    Args:
        name: of a task or of a benchmark.
        model: knows its prompts and its greatest length.
        results: the folder of mteb's own files (its `ResultCache`).
        data: a folder with data sets of the hub, as OWNER/NAME; the others are fetched from the hub.
        batch_size: texts that are encoded at once.

    Raises:
        RunError: mteb is not installed.
        ConfigError: mteb has no such task, or one that is not of texts alone.
        DataError: a data set cannot be loaded.
    """
    require_extra("mteb")
    from mteb import ResultCache

    tasks = _tasks(name)
    encoder, cache = Encoder(model, _source_of(model)), ResultCache(results)
    scores: dict[str, float] = {}
    with _quiet(), meter(f"mteb:{name}", len(tasks)) as progress:
        for task in tasks:
            encoder.report = _reporter(progress, len(scores), task.metadata.name)
            score = _run(_with_data(task, data), encoder, cache, batch_size).get_score()
            scores[task.metadata.name] = float(score)
            progress.reach(len(scores), {})
            say(f"  {len(scores)}/{len(tasks)} {task.metadata.name}: {task.metadata.main_score} {score:.4f}")
    return scores


def check_names(names: Iterable[str]) -> None:
    """Make sure that mteb has these tasks and benchmarks.

    Raises:
        RunError: mteb is not installed.
        ConfigError: it has no such task, or one that is not of texts alone.
    """
    require_extra("mteb")
    for name in names:
        _tasks(name)


def model_meta(folder: str | Path) -> "ModelMeta":
    """A model that multigrain saved, for mteb's own runner, which loads it when it needs it.

    Raises:
        RunError: mteb is not installed, or there is no model in the folder.
    """
    require_extra("mteb")
    from multigrain.model.load import load_model

    # The loader, not its arguments, knows the folder: mteb writes the arguments beside the results.
    loader = partial(_load, Path(folder).resolve())
    return Encoder(load_model(folder), str(folder)).mteb_model_meta.model_copy(update={"loader": loader})


class Encoder:
    """A model as mteb asks for it (mteb's `EncoderProtocol`).

    Args:
        model: encodes the texts.
        source: the folder or hub name that it is from.
    """

    def __init__(self, model: "SentenceTransformer", source: str) -> None:
        self.model, self.mteb_model_meta = model, _meta_of(model, source)
        self.report: Callable[[int], object] = _ignore

    def encode(
        self,
        inputs: Iterable[Mapping[str, list[str]]],
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: "PromptType | None" = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,  # noqa: ARG002
    ) -> Vectors:
        """(number of texts, dimension) vectors; of length 1 for queries and documents.

        Other vectors are as the model gives them, for classifiers and clusterings are fitted to them.
        """
        role: Role | None = prompt_type.value if prompt_type else None
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = prompt_for(role, self.model.prompts) if role else self._prompt_of(task_metadata)
        return encode_by_length(self.model, texts, prompt, role, self.report, batch_size)

    def _prompt_of(self, task: "TaskMetadata") -> str:
        """The prompt of a text that is neither query nor document."""
        names = task.name, task.type, self.model.default_prompt_name
        found = (self.model.prompts.get(name) for name in names if name is not None)
        return next((prompt for prompt in found if prompt is not None), "")

    def similarity(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """(A, B) cosines of (A, d) and (B, d) vectors."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """(A,) cosines of (A, d) and (A, d) vectors, each with its fellow."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _ignore(texts: int) -> None:
    """Nobody follows the progress of a model that mteb runs."""


def _load(folder: Path, name: str, revision: str | None = None, device: str | None = None) -> Encoder:  # noqa: ARG001
    """What mteb calls; it gives the name and the revision that it knows already."""
    from multigrain.model.load import load_model

    model = load_model(folder)
    return Encoder(model if device is None else model.to(device), str(folder))


def _meta_of(model: "SentenceTransformer", source: str) -> "ModelMeta":
    """What mteb writes about a model; by name and revision it finds the results of the same model again."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    parameters = sum(parameter.numel() for parameter in model.parameters())
    known = {
        "name": _name_of(source),
        "revision": _digest_of(model),
        "n_parameters": parameters,
        "max_tokens": model.max_seq_length,
        "embed_dim": model.get_embedding_dimension(),
        "framework": ["Sentence Transformers", "PyTorch"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": any(model.prompts.values()),
    }
    return ModelMeta.create_empty(known)


def _source_of(model: "SentenceTransformer") -> str:
    """The folder or hub name that a model was loaded from, as far as it knows."""
    return str(getattr(model.transformers_model, "name_or_path", "") or "unnamed")


def _name_of(source: str) -> str:
    """OWNER/NAME, as mteb wants it: the name on the hub, that of the run for its model, or that of the folder."""
    folder = Path(source)
    if source.count("/") == 1 and not folder.is_absolute() and not folder.exists():
        return source
    return f"multigrain/{[part for part in folder.resolve().parts if part not in ('training', 'model')][-1]}"


def _digest_of(model: "SentenceTransformer") -> str:
    """What tells a model from others: its weights, and all settings that change its vectors."""
    import torch

    config = getattr(model.transformers_model, "config", None)
    settings = {} if config is None else config.to_dict()
    unrelated = {"_name_or_path", "transformers_version"}
    settings = {key: value for key, value in settings.items() if key not in unrelated}
    described = [repr(model), model.prompts, model.default_prompt_name, model.max_seq_length, settings]
    digest = hashlib.sha256(json.dumps(described, default=str, sort_keys=True).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]


def _tasks(name: str) -> "list[AbsTask]":
    """The task of this name, or those of the benchmark."""
    from mteb import get_benchmark, get_benchmarks, get_task
    from mteb.get_tasks import TASK_LIST

    names = {task.metadata.name for task in TASK_LIST}
    benchmarks = {alias for benchmark in get_benchmarks() for alias in (benchmark.name, *(benchmark.aliases or ()))}
    if name not in names | benchmarks:
        likely = difflib.get_close_matches(name, sorted(names | benchmarks)) or ["SciFact", "MTEB(eng, v2)"]
        fault = f'"mteb:{name}": mteb has no such task or benchmark; wanted one such as {" or ".join(likely)}'
        raise ConfigError("evaluation.tasks", [fault])
    tasks = [get_task(name)] if name in names else list(get_benchmark(name).tasks)
    if others := [task.metadata.name for task in tasks if set(task.metadata.modalities) != {"text"}]:
        raise ConfigError("evaluation.tasks", [f'"mteb:{name}": {others[0]} is not of texts alone'])
    return tasks


def _run(task: "AbsTask", encoder: Encoder, cache: "ResultCache", batch_size: int) -> "TaskResult":
    """What is kept of the task, measured first as far as need be.

    It is read from the file also where it is new, because a file rounds: so a resumed call tells the same.
    """
    import mteb

    model, parts = encoder.mteb_model_meta, _parts(task)
    for part in parts:
        _run(part, encoder, cache, batch_size)
    if parts:  # their mean may be of what was there before
        cache.get_task_result_path(task.metadata.name, model).unlink(missing_ok=True)
    settings: Any = {"overwrite_strategy": _strategy(task, model, cache), "co2_tracker": False}
    options: Any = {"batch_size": batch_size, "show_progress_bar": False}
    mteb.evaluate(cast(Any, encoder), task, encode_kwargs=options, cache=cache, show_progress_bar=False, **settings)
    kept = cache.load_task_result(task.metadata.name, model, raise_if_not_found=True)
    return cast("TaskResult", kept).validate_and_filter_scores(task)


def _parts(task: "AbsTask") -> "list[AbsTask]":
    """The tasks of which this one is the mean; none for most."""
    return getattr(task.metadata, "tasks", [])


def _strategy(task: "AbsTask", model: "ModelMeta", cache: "ResultCache") -> str:
    """Whether mteb may go on from what is kept: not if kill -9 cut the file off, nor if it is of other data.

    Left to itself, mteb stops at the one and takes the other for a result.
    """
    try:
        kept = cache.load_task_result(task.metadata.name, model)
    except ValueError:
        return "always"
    other = kept is not None and kept.dataset_revision != task.metadata.revision
    return "always" if other else "only-missing"


def _with_data(task: "AbsTask", data: Path | None) -> "AbsTask":
    """A copy of the task that takes its data set from the folder, if it is there, and explains a failure."""
    own = copy.deepcopy(task)  # a benchmark shares its tasks, and the generators that they draw samples by
    if parts := [_with_data(part, data) for part in _parts(task)]:
        own.metadata = task.metadata.model_copy(update={"tasks": parts})
        return own
    wanted = task.metadata.dataset
    folder = None if data is None else data.resolve() / wanted["path"]
    revision = None  # of a folder
    if folder is not None and folder.is_dir():
        revision = _revision_of(folder)
        place = {**wanted, "path": str(folder), "revision": revision}
        own.metadata = task.metadata.model_copy(update={"dataset": place})
    cast(Any, own).load_data = partial(_load_data, own.load_data, revision, task.metadata, data)
    return own


def _load_data(
    load: Callable[..., None], revision: str | None, task: "TaskMetadata", data: Path | None, *args: Any, **kwargs: Any
) -> None:
    """Load the data set of a task; where it comes from a folder, the folder's `revision` is known.

    Raises:
        DataError: it cannot be loaded, for whatever reason; there are as many as there are layers below mteb.
    """
    try:
        with _cache_for(revision):
            load(*args, **kwargs)
    except Exception as error:
        raise DataError(f"mteb:{task.name}", _fault(task, data, error)) from error


@contextmanager
def _cache_for(revision: str | None) -> Iterator[None]:
    """The data of a folder are kept by their revision: the library keeps those of all folders of one layout as one."""
    from datasets import config

    usual = config.HF_DATASETS_CACHE
    if revision is not None:
        config.HF_DATASETS_CACHE = Path(usual) / revision
    try:
        yield
    finally:
        config.HF_DATASETS_CACHE = usual


def _fault(task: "TaskMetadata", data: Path | None, error: Exception) -> str:
    """Which data set it is, where it was looked for, and how to come by it."""
    name, revision = task.dataset["path"], task.dataset["revision"]
    if data is None:
        looked = "on the hub"
    elif (data / name).is_dir():
        looked = f"in {data / name}"
    else:
        looked = f"in {data / name}, which is not there, and on the hub"
    fetch = f"hf download {name} --repo-type dataset --revision {revision} --local-dir {(data or Path('DATA')) / name}"
    return (
        f"its data set {name} cannot be loaded: {first_line(error).rstrip('.')}. Looked {looked}. "
        f'Run, where the hub can be reached: {fetch}; and set evaluation.mteb_data = "{data or "DATA"}"'
    )


def _revision_of(folder: Path) -> str:
    """The commit of the hub that was downloaded into a folder, if that is known; else a digest of its files."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text(encoding="utf-8").partition("\n")[0] for note in notes}
    if len(commits) == 1:
        return commits.pop()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"local-{digest.hexdigest()[:16]}"


def _reporter(progress: Meter, done: int, task: str) -> Callable[[int], object]:
    """Counts the texts of a task that are encoded."""
    encoded = 0

    def report(texts: int) -> None:
        nonlocal encoded
        encoded += texts
        progress.reach(done, {"now": task, "texts": encoded})

    return report


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of the library that loads the data sets, and without mteb's advice on which tasks to choose."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars, logger = not are_progress_bars_disabled(), logging.getLogger("mteb")
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
