"""Choose the prompt style for the language model: a known one, or the better one on a few pairs."""

import json
from itertools import pairwise
from statistics import fmean
from typing import Any

from multigrain.config import Config
from multigrain.data.jsonl import read_pairs
from multigrain.data.sampling import choose
from multigrain.errors import LLMError, LLMUnavailable
from multigrain.extras import MODEL
from multigrain.files import count_lines, write_json
from multigrain.grading.judges import EmbeddingJudge
from multigrain.llm.clients.factory import model_name
from multigrain.llm.prompted_input import Parked
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import ask, plans
from multigrain.pipeline.generation.plans import Plan
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair
from multigrain.synthesis.prompts import files_in
from multigrain.terminal import say

PROBED = 8
"""Number of pairs that both styles write for."""
STYLES = ("all-grades", "per-grade")
"""Prompt styles. On a tie the first is chosen, because it needs fewer requests."""
KNOWN = {MODEL: "per-grade"}
"""Model -> the style that a probe finds for it. With the embedded model, a probe would take four minutes."""


def with_decided_style(config: Config, run_dir: RunDir) -> Config:
    """Return the configuration with a decided prompt style; `auto` is decided by a probe, once per run folder.

    Both styles write for the same few pairs. The judge measures how often relevance rises from grade to grade and
    stays below the positive's. The texts written in the chosen style are reused.

    Raises:
        LLMError: the model cannot be reached, or both styles fail. Nothing is decided then.
    """
    known = with_known_style(config, run_dir)
    if known.synthesis.prompt_style != "auto":
        return known
    rates: dict[str, float] = {}
    failures: list[LLMError] = []
    for style in STYLES:
        try:
            rates[style] = _order_rate(_with_style(config, style), run_dir)
        except LLMUnavailable:  # says nothing about the style
            raise
        except LLMError as error:
            say(f"  {style}: {error}")
            rates[style] = 0.0
            failures.append(error)
    if len(failures) == len(STYLES):
        raise failures[-1]
    style = max(STYLES, key=lambda style: rates[style])
    _note(config, run_dir, style, rates)
    told = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
    say(f"  prompt style: {style} (grades in the right order on {PROBED} pairs: {told})")
    return _with_style(config, style)


def with_known_style(config: Config, run_dir: RunDir) -> Config:
    """Return the configuration with the prompt style that is known without a probe; if there is none, it stays `auto`.

    A run folder keeps the style that it was started with.
    """
    if config.synthesis.prompt_style != "auto":
        return config
    if config.synthesis.limit == 0 or not config.synthesis.grades_from("llm"):
        return _with_style(config, config.prompt_style)
    if run_dir.style.is_file():
        noted: dict[str, Any] = json.loads(run_dir.style.read_text(encoding="utf-8"))
        if noted["asked"] == _question(config):
            return _with_style(config, noted["style"])
    known = KNOWN.get(model_name(config.llm))
    return _with_style(config, known) if known else config


def with_assumed_style(config: Config, run_dir: RunDir) -> Config:
    """Return the configuration with the likely style in place of `auto`, for batches, which allow no probe.

    The run folder then keeps this style.
    """
    known = with_known_style(config, run_dir)
    if known.synthesis.prompt_style != "auto":
        return known
    _note(config, run_dir, config.prompt_style, {})
    return _with_style(config, config.prompt_style)


def _with_style(config: Config, style: str) -> Config:
    return config.model_copy(update={"synthesis": config.synthesis.model_copy(update={"prompt_style": style})})


def _note(config: Config, run_dir: RunDir, style: str, rates: dict[str, float]) -> None:
    write_json(run_dir.style, {"asked": _question(config), "style": style, "order_rates": rates})


def _question(config: Config) -> str:
    """Return a digest of the settings that a probe depends on: model, provider, language and prompts."""
    prompts = "".join(path.read_text(encoding="utf-8") for path in files_in(config.synthesis.prompts))
    asked = [model_name(config.llm), config.llm.provider, config.synthesis.language, prompts]
    return config.digest([*asked, config.llm.extra] if config.llm.extra else asked)


def _order_rate(config: Config, run_dir: RunDir) -> float:
    """Return the share of steps, from grade to grade and from the last grade to the positive, in which relevance rises.

    The share is a mean over the pairs of the probe, from 0 to 1.
    """
    count = count_lines(run_dir.train_pairs)
    probed = min(PROBED, config.pairs_asked(count))  # only pairs that would be asked about anyway
    sample = list(choose(read_pairs(run_dir.train_pairs), count, probed, config.seed))
    ids = {pair.id for pair in sample}
    prompts = [prompted for prompted in plans.negatives(config, run_dir).prompts() if prompted.input in ids]
    plan = Plan(f"trying {config.prompt_style}", len(prompts), lambda: iter(prompts))
    ask.ask_all(config, run_dir, plan)
    written: dict[str, dict[int, str]] = {pair.id: {} for pair in sample}
    for outcome in plan.outcomes(run_dir):
        if not isinstance(outcome, Parked):
            for candidate in outcome:
                written[candidate.pair_id].setdefault(candidate.grade, candidate.text)
    judge = EmbeddingJudge(judge_encoder(config, run_dir))
    grades = config.synthesis.grades_from("llm")
    return round(fmean(_rises(judge, pair, written[pair.id], grades, config) for pair in sample), 4)


def _rises(judge: EmbeddingJudge, pair: Pair, texts: dict[int, str], grades: list[int], config: Config) -> float:
    """Return the share of rising steps for one pair; a missing grade counts as out of order."""
    written = [grade for grade in grades if grade in texts]
    passages = [pair.positive, *(texts[grade] for grade in written)]
    own, *scores = judge.scores([(pair.query, passage) for passage in passages], [pair.instruction] * len(passages))
    relevance = dict(zip(written, scores, strict=True))
    steps: list[bool] = []
    for low, high in pairwise(grades):
        steps.append(low in relevance and high in relevance and relevance[low] < relevance[high])
    last = relevance.get(grades[-1])
    steps.append(last is not None and last < config.grading.false_negative_above * own)
    return fmean(steps)
