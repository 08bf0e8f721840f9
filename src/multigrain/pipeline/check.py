"""Look before the run: are the inputs right, is everything there, and what will be done? No torch."""

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from multigrain.config import WRITTEN_SURPLUS, Config, config_of, described
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.python_docs import package_roots
from multigrain.data.sampling import choose
from multigrain.data.sources import PYTHON_DOCS
from multigrain.data.split_data import usable_negatives
from multigrain.llm.budget import Usage
from multigrain.llm.clients.factory import model_name
from multigrain.llm.prompted_input import Prompted
from multigrain.model.precheck import length_note, notes
from multigrain.model.prompts import prompts_of, prompts_to_train
from multigrain.model.roles import ROLES, prompt_for
from multigrain.pipeline.forecast import Size, batch_of, forecast
from multigrain.pipeline.freshness import finished, freshness_of
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.estimate import BYTES_PER_TOKEN, Estimate, estimate_usage, usage_bound
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.preflight import require_inputs, uses_llm
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_table import names_of
from multigrain.pipeline.stages.data import read_data
from multigrain.synthesis.negatives import plan_negatives, requests_each
from multigrain.synthesis.queries import plan_queries
from multigrain.terminal import listed
from multigrain.training.grade_schedules import drawn, phases_of

SAMPLE = 500
"""Pairs by whose prompts those of all are judged."""
WRITTEN_TOKENS = 100
"""Of a passage that the language model invents."""


def check(config: Config | str | Path) -> str:
    """Check the configuration and the data, and describe the run.

    Args:
        config: what to do; or the file that says so, or a run folder.

    Raises:
        MultigrainError: see `require_inputs` and `multigrain.data.held_out.prepare`.
    """
    config = config_of(config)
    require_inputs(config)
    done, state = _state(config)
    config = with_known_style(config, RunDir(config.folder))
    with _uncollected():
        inputs = _inputs(config)
    estimate = estimate_usage(config, inputs.prompts, inputs.most)
    lines = [f"{config.name}: configuration is good", f"  data        {inputs.text}", f"  llm         {_llm(config)}"]
    lines += _asking(config, estimate)
    bounds = " < ".join(f"{bound:g}" for bound in config.grading.bounds)
    judges = ", ".join(config.grading.judge)
    lines.append(f"  grading     relevance as a share of the positive's, by {judges}: {bounds}")
    lines.append(f"  model       {config.model.base}, {described(config.model)}")
    lines += [f"              {note}" for note in _notes(config)]
    lines.append(f"  prompts     {_prompts(config)}")
    lines += _training(config, inputs.size)
    lines.append(f"  evaluation  {', '.join(config.evaluation.tasks)}")
    if inputs.size is not None:
        lines += forecast(config, inputs.size, _all_asked(config, inputs.size, estimate), done)
    lines.append(f"  folder      {config.folder}: {state}")
    return "\n".join(lines)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nobody looks for cycles among the pairs that are read: they make none, and it took an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class _Inputs:
    """What the run begins with."""

    text: str
    """In words."""
    prompts: Iterable[Prompted[Any]] = ()
    """What the language model is asked first, where that is quickly known; or a sample of it."""
    most: Usage | None = None
    """What all prompts take at most, where `prompts` is a sample."""
    size: Size | None = None


def _inputs(config: Config) -> _Inputs:
    if config.synthesis.mode == "corpus":
        return _passages(config)
    if config.synthesis.mode == "tasks":
        section, each = config.synthesis, config.pairs_invented_each
        pairs = round(section.tasks * each * (1 - float(config.data.held_out)) / WRITTEN_SURPLUS)  # type: ignore[arg-type]
        counts = f"{section.tasks} tasks with {each} pairs each, in {', '.join(section.domains)}"
        return _Inputs(counts, plans.brainstorm(config).prompts(), size=Size(pairs, pairs, WRITTEN_TOKENS))
    if config.data.pairs == PYTHON_DOCS:
        return _Inputs(f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}")
    return _pairs(config)


def _passages(config: Config) -> _Inputs:
    sampled = sample_passages(config)
    count, most = len(sampled.passages), config.passages_asked
    counts = f"{len(sampled.documents)} passages, queries for {min(count, most)} of them"
    passages = list(choose(sampled.passages, count, most, config.seed))
    queries = len(passages) * config.synthesis.queries_per_passage
    pairs = round(queries * (1 - float(config.data.held_out)) / WRITTEN_SURPLUS)  # type: ignore[arg-type]
    size = Size(pairs, len(sampled.documents), _tokens(passage.text for passage in passages[:SAMPLE]))
    return _Inputs(counts, plan_queries(config, passages, model_name(config.llm)), size=size)


def _pairs(config: Config) -> _Inputs:
    split = read_data(config)
    train, count = split.train, len(split.train)
    counts = f"{count} training pairs, {len(split.held_out)} held out, {len(split.documents)} documents"
    if given := len(usable_negatives(split)[0]):
        counts += f", {given} given negatives"
    if others := sum(pair.instruction not in (None, config.model.instruction) for pair in train):
        counts += f", {others} pairs with instructions of their own (kept, not trained with)"
    size = Size(count, len(split.documents), _tokens(pair.positive for pair in train[:SAMPLE]))
    few = list(choose(train, count, min(SAMPLE, config.pairs_asked), config.seed))
    # Among few pairs other words are rare than among all, so the term of a cloze may be another one.
    source, number = (train, count) if count <= SAMPLE else (few, len(few))
    prompts = plan_negatives(config, lambda: source, number, model_name(config.llm))
    asked = list(choose(train, count, config.pairs_asked, config.seed))
    most = usage_bound(config, asked) if len(asked) > len(few) else None
    return _Inputs(counts, prompts if few else (), most, size)


def _tokens(texts: Iterable[str]) -> int:
    """Of a text, on average."""
    return round(fmean(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN for text in texts)) or 1


def _all_asked(config: Config, size: Size, first: Estimate | None) -> Usage:
    """What the language model is likely to be asked: first, and for the negatives where these come second."""
    asked = Usage() if first is None else first.likely
    if config.synthesis.mode == "negatives":
        return asked
    if config.synthesis.mode == "tasks":
        asked += Usage(config.synthesis.tasks * config.pairs_invented_each, 0, 0)
    return asked + Usage(min(config.pairs_asked, size.pairs) * requests_each(config))


def _notes(config: Config) -> list[str]:
    """What the models do otherwise than they are asked to."""
    grading = config.grading
    found = notes(config.model)
    found += length_note(grading.judge_model, grading.judge_max_tokens, "grading.judge_max_tokens")
    if grading.cross_encoder and "cross-encoder" in grading.judge:
        found += length_note(grading.cross_encoder, grading.judge_max_tokens, "grading.judge_max_tokens")
    return found


def _prompts(config: Config) -> str:
    """What the model that is trained puts before queries and documents."""
    base, section = prompts_of(config.model.base), config.model
    given = section.query_prompt is not None or section.document_prompt is not None
    if base is None and section.instruction is None and not given:
        return "those of the base, which is not on this disk yet"
    query, document = (prompt_for(role, prompts_to_train(config.model, base or {})) for role in ROLES)
    if not query and not document:
        return "none, neither before queries nor before documents"
    origin = "of model.query_prompt and document_prompt" if given else "the base's own"
    origin = "of model.instruction" if section.instruction is not None else origin
    pooling = "" if config.model.prompt_in_pooling else ", left out of the pooling"
    return f"{json.dumps(query)} before queries, {json.dumps(document)} before documents; {origin}{pooling}"


def _llm(config: Config) -> str:
    if not uses_llm(config):
        return "not used"
    where = ", ".join(config.llm.base_url) or config.llm.provider
    return f"{where}, {config.llm.model or 'default model'}: {_asked(config)}"


def _asked(config: Config) -> str:
    """What it is asked, in words."""
    section = config.synthesis
    if section.mode == "negatives" and not config.pairs_asked:
        return "judges alone"
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
    most = f"{config.pairs_asked} pairs"
    if config.pairs_asked != section.limit:
        most = f"as many pairs as training sees ({config.pairs_asked})"
    return f"{most}, {negatives}"


def _asking(config: Config, estimate: Estimate | None) -> list[str]:
    """What the language model will be asked first, and what that takes."""
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


def _training(config: Config, size: Size | None) -> list[str]:
    """The schedule in words and as a drawing; which grades the data has is known only once it is graded."""
    section = config.training
    name = section.schedule if not section.phases or section.is_self_paced else "your own phases"
    phases = phases_of(section)
    words = " -> ".join(f"{phase.name} ({phase.steps})" for phase in phases)
    batch = section.batch_size if size is None else batch_of(section, size)
    more = [f"batches of {batch}", section.loss]
    if section.is_self_paced:
        more.append(f"a phase ends when its margin, taken every {section.pace_every} steps, grows no more")
    if section.base_share:
        more.append(f"{section.base_share:.0%} of the base mixed in")
    return [f"  training    {name}: {words}; {', '.join(more)}", *(f"              {line}" for line in drawn(phases))]


def _state(config: Config) -> tuple[list[str], str]:
    """The stages that are done, and how the run folder stands, in words."""
    run_dir = RunDir(Path(config.folder))
    if not run_dir.config.exists():
        return [], "new"
    done = finished(config, run_dir)
    todo = [name for name in names_of(config) if name not in done]
    freshness = freshness_of(config, run_dir)
    if freshness.is_outdated:
        models = [f"other files of {name}" for name in freshness.changed_models]
        changed = "; ".join(run_dir.changed(config) or models) or "input files"
        return done, f"made otherwise ({changed}); give another name, or --force"
    return done, f"done: {', '.join(done) or 'nothing'}; to do: {', '.join(todo) or 'nothing'}"
