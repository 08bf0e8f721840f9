"""Look before the run: are the inputs right, is everything there, and what will be done? No torch."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from multigrain import asking
from multigrain.config import Config, as_path, config_of, described
from multigrain.data.python_docs import package_roots
from multigrain.data.sources import PYTHON_DOCS
from multigrain.data.split import sample_passages, usable_negatives
from multigrain.grid import Grid
from multigrain.llm.providers import model_name
from multigrain.model.locate import prompts_of, prompts_to_train
from multigrain.pipeline import finished, is_outdated, names_of
from multigrain.preflight import require
from multigrain.progress import counted, listed, named
from multigrain.rundir import RunDir
from multigrain.schedules import drawn, phases_of
from multigrain.stages.data import read_data
from multigrain.stages.evaluate import foresee
from multigrain.style import decided
from multigrain.synthesis.negatives import plan, requests_each
from multigrain.synthesis.queries import plan_queries
from multigrain.synthesis.task import Task
from multigrain.vectors import ROLES, prompt_for


def check(config: Config | str | Path) -> str:
    """Check the configuration and the data, and describe the run.

    Args:
        config: what to do; or the file that says so, or a run folder.

    Raises:
        MultigrainError: what `require` and `prepare` raise.
    """
    config = config_of(config)
    require(config)
    foresee(config)
    state = _state(config)
    config = decided(config, RunDir(config.folder))
    tasks, data = _data(config)
    lines = [f"{config.name}: configuration is good", f"  data        {data}", f"  llm         {_llm(config)}"]
    lines += _asking(config, tasks)
    bounds = " < ".join(f"{bound:g}" for bound in config.grading.bounds)
    judges = ", ".join(config.grading.judge)
    lines.append(f"  grading     relevance as a share of the positive's, by {judges}: {bounds}")
    lines.append(f"  model       {config.model.base}, {described(config.model)}")
    lines.append(f"  prompts     {_prompts(config)}")
    lines += _training(config)
    lines.append(f"  evaluation  {', '.join(config.evaluation.tasks)}")
    lines.append(f"  folder      {config.folder}: {state}")
    return "\n".join(lines)


def check_grid(path: str | Path) -> str:
    """Check the file of an ablation and the settings of all its arms, and say what there is to do.

    Raises:
        MultigrainError: see `Grid`.
    """
    grid = Grid(as_path(path, "an ABLATION.toml"))
    grid.require_inputs()
    arms, seeds = grid.ablation.arms, grid.ablation.seeds
    tuning = len(grid.all_tuning_cells())
    cells = grid.cells(grid.last_tuned)
    each = f"{counted(len(arms), 'arms')} x {counted(len(seeds), 'seeds')}"
    trainings = f"{len(cells)}: {each}" + (f"; {tuning} to tune" if tuning else "")
    lines = [
        f"{grid.ablation.name}: the grid is good",
        f"  arms        {named(arms)}",
        f"  trainings   {trainings}",
        f"  evaluation  {', '.join(cells[0].config.evaluation.tasks)}",
        f"  folder      {grid.folder}: {sum(cell.is_done for cell in cells)} measured",
    ]
    if caveat := grid.caveat:
        lines.append(f"  beware      {caveat}")
    return "\n".join(lines)


def _data(config: Config) -> tuple[Iterable[Task[Any]], str]:
    """What the language model is asked first, where that is quickly known, and a line on the data."""
    model = model_name(config.llm)
    if config.synthesis.mode == "corpus":
        sampled = sample_passages(config)
        counts = f"{len(sampled.documents)} passages, queries for {len(sampled.passages)} of them"
        return plan_queries(config, sampled.passages, model), counts
    if config.synthesis.mode == "tasks":
        domains = ", ".join(config.synthesis.domains)
        counts = f"{config.synthesis.tasks} tasks with {config.synthesis.pairs_per_task} pairs each, in {domains}"
        return asking.brainstorm(config).tasks(), counts
    if config.data.pairs == PYTHON_DOCS:
        return [], f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}"
    split = read_data(config)
    counts = f"{len(split.train)} training pairs, {len(split.held_out)} held out, {len(split.documents)} documents"
    if given := len(usable_negatives(split)[0]):
        counts += f", {given} given negatives"
    if others := sum(pair.instruction not in (None, config.model.instruction) for pair in split.train):
        counts += f", {others} pairs with instructions of their own (kept, not trained with)"
    if config.synthesis.limit == 0:
        return [], counts
    return plan(config, lambda: split.train, len(split.train), model), counts


def _prompts(config: Config) -> str:
    """What the model that is trained puts before queries and documents."""
    base = prompts_of(config.model.base)
    if base is None and config.model.instruction is None:
        return "those of the base, which is not on this disk yet"
    query, document = (prompt_for(role, prompts_to_train(config.model, base or {})) for role in ROLES)
    if not query and not document:
        return "none, neither before queries nor before documents"
    origin = "the base's own" if config.model.instruction is None else "of model.instruction"
    pooling = "" if config.model.prompt_in_pooling else ", left out of the pooling"
    return f"{json.dumps(query)} before queries, {json.dumps(document)} before documents; {origin}{pooling}"


def _llm(config: Config) -> str:
    if config.synthesis.limit == 0:
        return "not used"
    where = ", ".join(config.llm.base_url) or config.llm.provider
    return f"{where}, {config.llm.model or 'default model'}: {_asked(config)}"


def _asked(config: Config) -> str:
    """What it is asked, in words."""
    section = config.synthesis
    style = (
        f"{config.prompt_style}, or what a probe of both styles finds"
        if section.prompt_style == "auto"
        else section.prompt_style
    )
    each = requests_each(config)
    negatives = f"{each} requests for each pair ({style})" if each else "negatives are mined alone"
    if section.mode == "corpus":
        return f"{section.queries_per_passage} to a passage, then {negatives}"
    if section.mode == "tasks":
        return f"tasks, then pairs, then {negatives}"
    return f"{section.limit or 'all training'} pairs, {negatives}"


def _asking(config: Config, tasks: Iterable[Task[Any]]) -> list[str]:
    """What the language model will be asked first, and what that takes."""
    estimate = asking.estimate(config, tasks)
    if estimate is None:
        return []
    tokens = f"about {estimate.likely.tokens:,} tokens (at most {estimate.most.tokens:,})"
    if estimate.is_priced:
        cost = f"about ${estimate.likely.cost:.2f} (at most ${estimate.most.cost:.2f})"
    else:
        cost = "nobody knows at what price; set llm.prices"
    lines = [f"  asking      {estimate.most.calls:,} requests, {tokens}, {cost}; by {estimate.basis}"]
    if config.synthesis.mode != "negatives":
        lines.append("              for the first step alone; the negatives come on top, once the pairs are there")
    caps = {name: getattr(config.llm, name) for name in ("max_requests", "max_tokens", "max_cost")}
    if chosen := ", ".join(f"llm.{name} = {cap:g}" for name, cap in caps.items() if cap is not None):
        lines.append(f"              never more than {chosen}, for the whole folder; so far {listed(estimate.so_far)}")
    prompt = estimate.prompt.replace("\n", "\n              | ")
    return [*lines, f"  prompt      | {prompt}"]


def _training(config: Config) -> list[str]:
    """The schedule in words and as a drawing; which grades the data has is known only once it is graded."""
    section = config.training
    name = section.schedule if not section.phases or section.is_self_paced else "your own phases"
    phases = phases_of(section)
    words = " -> ".join(f"{phase.name} ({phase.steps})" for phase in phases)
    more = [f"batches of {section.batch_size}", section.loss]
    if section.is_self_paced:
        more.append(f"a phase ends when its margin, taken every {section.pace_every} steps, grows no more")
    if section.base_share:
        more.append(f"{section.base_share:.0%} of the base mixed in")
    return [f"  training    {name}: {words}; {', '.join(more)}", *(f"              {line}" for line in drawn(phases))]


def _state(config: Config) -> str:
    run_dir = RunDir(Path(config.folder))
    if not run_dir.config.exists():
        return "new"
    done = finished(config, run_dir)
    todo = [name for name in names_of(config) if name not in done]
    if is_outdated(config, run_dir):
        changed = "; ".join(run_dir.changed(config)) or "input files"
        return f"made otherwise ({changed}); give another name, or --force"
    return f"done: {', '.join(done) or 'nothing'}; to do: {', '.join(todo) or 'nothing'}"
