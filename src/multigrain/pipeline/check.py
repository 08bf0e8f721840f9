"""Check a run before it starts, and describe what it will do. Does not import torch."""

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from multigrain.config import Config, config_of, described, described_adaptation
from multigrain.llm.budget import Usage
from multigrain.model.precheck import length_note, notes
from multigrain.model.prompts import prompts_of, prompts_to_train
from multigrain.model.roles import prompt_for, template_of
from multigrain.pipeline.arms import described_baseline
from multigrain.pipeline.check_inputs import read_inputs
from multigrain.pipeline.check_memory import memory_lines
from multigrain.pipeline.check_time import measured_training
from multigrain.pipeline.forecast import Size, forecast
from multigrain.pipeline.freshness import finished, freshness_of
from multigrain.pipeline.generation.estimate import Estimate, estimate_usage
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.preflight import require_inputs, uses_llm
from multigrain.pipeline.recipe import told, with_recipe
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage_table import names_of
from multigrain.synthesis.negatives import requests_each
from multigrain.terminal import listed
from multigrain.training.grade_schedules import drawn, epochs_told, phases_of

INDENT = " " * 14
"""Indentation of a line that continues the previous one."""


def check(config: Config | str | Path, time: bool = False) -> str:
    """Check the configuration and the data, and describe the run.

    Args:
        config: the configuration of the run, its file, or its run folder.
        time: load the base and time a few micro-batches of the run's texts, to forecast the training time.

    Returns:
        The report, with a named line for each part of the run.

    Raises:
        MultigrainError: see `require_inputs` and `multigrain.data.held_out.prepare`.
    """
    config = config_of(config)
    require_inputs(config)
    state = _state(config)
    run_dir = RunDir(config.folder)
    config = with_known_style(config, run_dir)
    with _no_garbage_collection():
        inputs = read_inputs(config, reads_docs=time)
    trained = with_recipe(config, run_dir)
    measured = measured_training(trained, inputs.size, inputs.pairs) if time else None
    estimate = estimate_usage(config, inputs.prompts, inputs.bound)
    lines = [
        f"{config.name}: the configuration is valid",
        line("data", inputs.description),
        *(INDENT + source for source in inputs.sources),
        line("llm", _llm(config, inputs.size)),
        *_usage_lines(config, estimate),
        line("grading", _grading(config)),
        *_model_lines(config),
        line("prompts", _prompts(config)),
        *([line("adapting", described_adaptation(config.adapt))] if config.adapt else []),
        *_training_lines(trained, inputs.size),
        *([line("tuned", f"training uses {settings}")] if (settings := told(config, run_dir)) else []),
        *([line("measured", measured.line)] if measured else []),
        line("baseline", described_baseline(config)),
        line("evaluation", ", ".join(config.evaluation.tasks)),
    ]
    if inputs.size is not None:
        requests = _all_requests(config, inputs.size, estimate)
        lines += forecast(trained, inputs.size, requests, state.done, measured and measured.seconds)
        lines += [] if "train" in state.done else memory_lines(trained, inputs.size)
    return "\n".join([*lines, line("folder", f"{config.folder}: {state.description}")])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch off the search for reference cycles. Pairs make none, and it took an eighth of the reading time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def line(name: str, text: str) -> str:
    """Return a line of the report: the name of a part of the run, and what there is to say about it."""
    return f"  {name:<12}{text}"


def _all_requests(config: Config, size: Size, first: Estimate | None) -> Usage:
    """Return the likely usage of the first requests, and of those for the negatives if they come later."""
    asked = Usage() if first is None else first.likely
    if not config.writing:
        return asked
    for own in config.writing.values():
        if own.synthesis.mode == "tasks":
            asked += Usage(own.synthesis.tasks * own.pairs_invented_each, 0, 0)
    return asked + Usage(config.pairs_asked(size.pairs) * requests_each(config))


def _grading(config: Config) -> str:
    bounds = " < ".join(f"{bound:g}" for bound in config.grading.bounds)
    judges = ", ".join(config.grading.judge)
    return f"relevance as a share of the positive's, judged by {judges}; bounds {bounds}"


def _model_lines(config: Config) -> list[str]:
    """Describe the base, and note where models deviate from their settings."""
    grading = config.grading
    found = notes(config.model)
    found += length_note(grading.judge_model, grading.judge_max_tokens, "grading.judge_max_tokens")
    if grading.cross_encoder and "cross-encoder" in grading.judge:
        found += length_note(grading.cross_encoder, grading.judge_max_tokens, "grading.judge_max_tokens")
    if (teacher := config.training.teacher) and teacher.model:
        found += length_note(teacher.model, teacher.max_tokens, "training.teacher.max_tokens")
    base = line("model", f"{config.model.base}, {described(config.model)}")
    return [base, *(INDENT + note for note in found)]


def _prompts(config: Config) -> str:
    """Describe the prompts that the trained model puts before queries and documents."""
    base, section = prompts_of(config.model.base), config.model
    given = section.query_prompt is not None or section.document_prompt is not None
    if base is None and section.instruction is None and not given:
        return "the base's own; the base is not downloaded yet"
    prompts = prompts_to_train(config.model, base or {})
    query, document = prompt_for("query", prompts), prompt_for("document", prompts)
    template = template_of(prompts)
    if not query and not document:
        with_instruction = f"{json.dumps(template)} before queries with an instruction, none before other texts"
        return with_instruction if template else "none, neither before queries nor before documents"
    if section.instruction is not None:
        origin = "from model.instruction"
    else:
        origin = "from model.query_prompt and document_prompt" if given else "the base's own"
    pooling = "" if config.model.prompt_in_pooling else ", left out of the pooling"
    own = f"; {json.dumps(template)} before queries with an instruction" if template else ""
    return f"{json.dumps(query)} before queries, {json.dumps(document)} before documents; {origin}{pooling}{own}"


def _llm(config: Config, size: Size | None) -> str:
    if not uses_llm(config):
        return "not used"
    where = ", ".join(config.llm.base_url) or config.llm.provider
    return f"{where}, {config.llm.model or 'default model'}: {_requests(config, size)}"


def _requests(config: Config, size: Size | None) -> str:
    """Describe the requests to the language model."""
    section = config.synthesis
    if section.limit == 0 and not config.writing:
        return "only judges"
    style: str = section.prompt_style
    if style == "auto":
        style = f"{config.prompt_style}, unless a probe of both styles finds otherwise"
    each = requests_each(config)
    negatives = f"{each} requests per pair ({style})" if each else "negatives only by mining"
    if config.data.written_sources:
        then = "negatives only by mining" if section.limit == 0 else f"about {_pairs_asked(config, size)}, {negatives}"
        return f"pairs of {' and '.join(config.writing)}, then {then}"
    if section.mode == "corpus":
        return f"{section.queries_per_passage} per passage, then {negatives}"
    if section.mode == "tasks":
        return f"tasks, then pairs, then {negatives}"
    return f"{_pairs_asked(config, size)}, {negatives}"


def _pairs_asked(config: Config, size: Size | None) -> str:
    """Describe how many pairs the language model is asked about; `size` is None if the pairs are not counted yet."""
    if size is None:
        most = config.pairs_asked(config.data.limit or sys.maxsize)
        return f"at most {most:,} pairs"
    asked = config.pairs_asked(size.pairs)
    is_cut = asked == config.training.seen(size.pairs) < size.pairs
    return f"as many pairs as training sees ({asked:,})" if is_cut else f"{asked:,} pairs"


def _usage_lines(config: Config, estimate: Estimate | None) -> list[str]:
    """Describe the first requests to the language model, with their tokens and cost."""
    if estimate is None:
        return []
    tokens = f"about {estimate.likely.tokens:,} tokens (at most {estimate.most.tokens:,})"
    if estimate.is_priced:
        cost = f"about ${estimate.likely.cost:.2f} (at most ${estimate.most.cost:.2f})"
    else:
        cost = "at an unknown price; set llm.prices"
    lines = [line("asking", f"{estimate.most.calls:,} requests, {tokens}, {cost}; estimated from {estimate.basis}")]
    if config.writing:
        negatives = "requests for negatives follow, once the pairs are there"
        follows = "no requests for negatives follow" if config.synthesis.limit == 0 else negatives
        lines.append(f"{INDENT}for the first step only; {follows}")
    caps = {name: getattr(config.llm, name) for name in ("max_requests", "max_tokens", "max_cost")}
    if chosen := ", ".join(f"llm.{name} = {cap:g}" for name, cap in caps.items() if cap is not None):
        lines.append(f"{INDENT}never more than {chosen} in this run folder; so far {listed(estimate.so_far)}")
    prompt = estimate.prompt.replace("\n", f"\n{INDENT}| ")
    return [*lines, line("prompt", f"| {prompt}")]


def _training_lines(config: Config, size: Size | None) -> list[str]:
    """Describe the schedule in words, and draw it. The grades of the data are known only after grading."""
    section = config.training
    name: str = section.schedule if not section.phases or section.is_self_paced else "your own phases"
    if section.teacher is not None and section.list_length:
        name = f"lists of {section.list_length} documents, scored by {section.teacher.model or section.teacher.kind}"
    pairs = config.data.limit if size is None else size.pairs
    phases = phases_of(section, tuples=pairs or 0)
    drawing = [] if section.list_length else drawn(phases)  # a list counts as one grade
    is_known = pairs is not None or section.steps_given is not None
    words = " -> ".join(f"{phase.name} ({phase.steps})" if is_known else phase.name for phase in phases)
    more = [] if is_known else [epochs_told(section.epochs or 1.0)]
    more += [f"batches of {section.batch_of(pairs or section.batch_size)}", section.loss]
    if section.is_self_paced:
        more.append(f"a phase ends when its margin, measured every {section.pace_every} steps, stops growing")
    if section.base_share:
        more.append(f"{section.base_share:.0%} of the base mixed in")
    return [line("training", f"{name}: {words}; {', '.join(more)}"), *(INDENT + line for line in drawing)]


class _State(NamedTuple):
    """The state of the run folder."""

    done: list[str]
    """Stages that are done."""
    description: str
    """State of the folder, in words."""


def _state(config: Config) -> _State:
    run_dir = RunDir(Path(config.folder))
    if not run_dir.config.exists():
        return _State([], "new")
    done = finished(config, run_dir)
    todo = [name for name in names_of(config) if name not in done]
    freshness = freshness_of(config, run_dir)
    if freshness.is_outdated:
        models = [f"other files of {name}" for name in freshness.changed_models]
        changed = "; ".join(run_dir.changed(config) or models) or "input files"
        return _State(done, f"holds a different run ({changed}); choose another name, or use --force")
    return _State(done, f"done: {', '.join(done) or 'nothing'}; to do: {', '.join(todo) or 'nothing'}")
