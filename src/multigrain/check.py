"""Look before the run: are the inputs right, is everything there, and what will be done? No torch."""

from pathlib import Path

from multigrain.config import Config
from multigrain.data.python_docs import package_roots
from multigrain.data.sources import PYTHON_DOCS, beir_parts
from multigrain.data.split import prepare
from multigrain.errors import ConfigError, DataError
from multigrain.llm.providers import api_key
from multigrain.llm.weights import find_weights
from multigrain.model.locate import EMBEDDED, find_base
from multigrain.pipeline import STAGES
from multigrain.rundir import RunDir


def require(config: Config) -> None:
    """Make sure that what every run needs is there, before the first long stage begins.

    Raises:
        ConfigError: the base or the judge is no model, or the key of the endpoint is not set.
        RunError: a part of the embedded default is not installed.
        DataError: a task of the evaluation is not there, or is not to be had without held-out pairs.
    """
    find_base(config.model.base, "model.base")
    find_base(config.grading.judge_model, "grading.judge_model")
    if config.llm.provider == EMBEDDED and config.synthesis.limit != 0:
        find_weights()
    api_key(config.llm)
    for task in config.evaluation.tasks:
        if task == "held-out":
            if not config.data.held_out:
                raise ConfigError("evaluation.tasks", ['"held-out" needs data.held_out above 0'])
        elif not task.startswith("beir:"):
            raise ConfigError("evaluation.tasks", [f'found "{task}"; wanted "held-out" or beir:FOLDER:SPLIT'])
        else:
            folder, split = beir_parts(task)
            if not (folder / "qrels" / f"{split}.tsv").is_file():
                raise DataError(task, f"there is no {folder / 'qrels' / split}.tsv.")


def check(config: Config) -> str:
    """Check the configuration and the data, and describe the run.

    Raises:
        MultigrainError: what `require` and `prepare` raise.
    """
    require(config)
    lines = [f"{config.name}: configuration is good", f"  data        {_data(config)}", f"  llm         {_llm(config)}"]
    bounds = " < ".join(f"{bound:g}" for bound in config.grading.bounds)
    lines.append(f"  grading     relevance as a share of the positive's, by {config.grading.judge_model}: {bounds}")
    lines.append(f"  model       {config.model.base}, {config.model.pooling} pooling, {config.model.max_tokens} tokens")
    phases = " -> ".join(f"{phase.name} ({phase.steps})" for phase in config.training.phases)
    lines.append(f"  training    {phases}; batches of {config.training.batch_size}")
    lines.append(f"  evaluation  {', '.join(config.evaluation.tasks)}")
    lines.append(f"  folder      {config.folder}: {_state(config)}")
    return "\n".join(lines)


def _data(config: Config) -> str:
    if config.data.pairs == PYTHON_DOCS:
        return f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}"
    split = prepare(config)
    return f"{len(split.train)} training pairs, {len(split.held_out)} held out, {len(split.documents)} documents"


def _llm(config: Config) -> str:
    limit = config.synthesis.limit
    if limit == 0:
        return "not used"
    pairs = f"{limit} pairs" if limit else "all training pairs"
    grades = len(set(config.synthesis.grades))
    requests = config.synthesis.per_grade * (grades if config.prompt_style == "per-grade" else 1)
    where = config.llm.base_url or config.llm.provider
    return f"{where}, {config.llm.model or 'default model'}: {pairs}, {requests} requests each ({config.prompt_style})"


def _state(config: Config) -> str:
    run_dir = RunDir(Path(config.folder))
    if not run_dir.config.exists():
        return "new"
    done = [stage.name for stage in STAGES if stage.is_done(config, run_dir)]
    todo = [stage.name for stage in STAGES if stage.name not in done]
    return f"done: {', '.join(done) or 'nothing'}; to do: {', '.join(todo) or 'nothing'}"
