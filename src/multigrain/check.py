"""Look before the run: are the inputs right, is everything there, and what will be done? No torch."""

from pathlib import Path

from multigrain.config import Config
from multigrain.data.python_docs import package_roots
from multigrain.data.sources import PYTHON_DOCS
from multigrain.pipeline import NAMES, finished, is_outdated
from multigrain.preflight import require
from multigrain.rundir import RunDir
from multigrain.stages import read_data


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
    split = read_data(config)
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
    done = finished(config, run_dir)
    todo = [name for name in NAMES if name not in done]
    if is_outdated(config, run_dir):
        changed = "; ".join(run_dir.changed(config)) or "input files"
        return f"made otherwise ({changed}); give another name, or --force"
    return f"done: {', '.join(done) or 'nothing'}; to do: {', '.join(todo) or 'nothing'}"
