"""Look before the run: are the inputs right, is everything there, and what will be done? No torch."""

from pathlib import Path

from multigrain import asking
from multigrain.config import Config
from multigrain.data.python_docs import package_roots
from multigrain.data.sources import PYTHON_DOCS
from multigrain.data.split import usable_negatives
from multigrain.pipeline import NAMES, finished, is_outdated
from multigrain.preflight import require
from multigrain.progress import listed
from multigrain.records import Pair
from multigrain.rundir import RunDir
from multigrain.stages import read_data
from multigrain.synthesis.synthesize import requests_each


def check(config: Config) -> str:
    """Check the configuration and the data, and describe the run.

    Raises:
        MultigrainError: what `require` and `prepare` raise.
    """
    require(config)
    pairs, data = _data(config)
    lines = [f"{config.name}: configuration is good", f"  data        {data}", f"  llm         {_llm(config)}"]
    lines += _asking(config, pairs)
    bounds = " < ".join(f"{bound:g}" for bound in config.grading.bounds)
    lines.append(f"  grading     relevance as a share of the positive's, by {config.grading.judge_model}: {bounds}")
    lines.append(f"  model       {config.model.base}, {config.model.pooling} pooling, {config.model.max_tokens} tokens")
    phases = " -> ".join(f"{phase.name} ({phase.steps})" for phase in config.training.phases)
    lines.append(f"  training    {phases}; batches of {config.training.batch_size}")
    lines.append(f"  evaluation  {', '.join(config.evaluation.tasks)}")
    lines.append(f"  folder      {config.folder}: {_state(config)}")
    return "\n".join(lines)


def _data(config: Config) -> tuple[list[Pair], str]:
    """The training pairs, where they are quickly had, and a line on the data."""
    if config.data.pairs == PYTHON_DOCS:
        return [], f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}"
    split = read_data(config)
    counts = f"{len(split.train)} training pairs, {len(split.held_out)} held out, {len(split.documents)} documents"
    if given := len(usable_negatives(split)[0]):
        counts += f", {given} given negatives"
    return split.train, counts


def _llm(config: Config) -> str:
    limit = config.synthesis.limit
    if limit == 0:
        return "not used"
    pairs = f"{limit} pairs" if limit else "all training pairs"
    requests = requests_each(config)
    where = ", ".join(config.llm.base_url) or config.llm.provider
    return f"{where}, {config.llm.model or 'default model'}: {pairs}, {requests} requests each ({config.prompt_style})"


def _asking(config: Config, pairs: list[Pair]) -> list[str]:
    """What the language model will be asked, and what that takes."""
    estimate = asking.estimate(config, pairs) if pairs else None
    if estimate is None:
        return []
    tokens = f"about {estimate.likely.tokens:,} tokens (at most {estimate.most.tokens:,})"
    if estimate.is_priced:
        cost = f"about ${estimate.likely.cost:.2f} (at most ${estimate.most.cost:.2f})"
    else:
        cost = "nobody knows at what price; set llm.prices"
    lines = [f"  asking      {estimate.most.calls:,} requests, {tokens}, {cost}; by {estimate.basis}"]
    caps = {name: getattr(config.llm, name) for name in ("max_requests", "max_tokens", "max_cost")}
    if chosen := ", ".join(f"llm.{name} = {cap:g}" for name, cap in caps.items() if cap is not None):
        lines.append(f"              never more than {chosen}, for the whole folder; so far {listed(estimate.so_far)}")
    prompt = estimate.prompt.replace("\n", "\n              | ")
    return [*lines, f"  prompt      | {prompt}"]


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
