"""A whole run: all sections together, and the fingerprints that decide what is done again."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from multigrain.config.base import Section
from multigrain.config.baseline import BaselineSection
from multigrain.config.data import DataSection
from multigrain.config.evaluation import EvaluationSection
from multigrain.config.export import ExportSection
from multigrain.config.grading import GradingSection
from multigrain.config.llm import LLMSection
from multigrain.config.mining import MiningSection
from multigrain.config.model import ModelSection
from multigrain.config.synthesis import SynthesisSection
from multigrain.config.training import TrainingSection
from multigrain.config.tune import TuningSection

OUTCOME_NEUTRAL: dict[str, Any] = {
    "llm": {
        "base_url",
        "api_key_env",
        "max_concurrency",
        "max_requests",
        "max_tokens",
        "max_cost",
        "prices",
        "timeout",
        "extra_headers",
        "query",
    },
    "synthesis": {"answer_tokens", "max_parked", "durable"},
    "training": {
        "checkpoint_every",
        "checkpoint_minutes",
        "micro_batch_tokens",
        "activation_gb",
        "frozen_cache_gb",
        "evaluate",
        "report_to",
        "recipe",
    },
    "tune": {"minutes", "limit", "values", "recipes"},
}
"""Settings that may change without any stage being run again."""

MOST_ASKED = 2560
"""Training pairs that the language model is asked about, where neither `synthesis.limit` nor the steps of the training
say how many: each costs requests, and an epoch may hold any number."""
WRITTEN_SURPLUS = 2
"""Queries that are requested for each one that training can see, because filters drop up to half of them."""


class Config(Section):
    """All settings of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(7, ge=0, lt=2**32)
    output: str = "runs"
    data: DataSection
    llm: LLMSection = LLMSection()
    synthesis: SynthesisSection = SynthesisSection()
    mining: MiningSection = MiningSection()
    grading: GradingSection = GradingSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    baseline: BaselineSection = BaselineSection()
    tune: TuningSection = TuningSection()
    evaluation: EvaluationSection = EvaluationSection()
    export: ExportSection = ExportSection()

    @property
    def folder(self) -> Path:
        """The run folder that this configuration fills."""
        return Path(self.output) / self.name

    @property
    def training_seed(self) -> int:
        """Seed of the training: its own, else that of the run."""
        return self.seed if self.training.seed is None else self.training.seed

    def pairs_asked(self, pairs: int) -> int:
        """Return how many of so many training pairs the language model is asked about: no more than training can see.

        That is `synthesis.limit`; without it, all that training can see where its steps are given, else `MOST_ASKED`.
        """
        limit = self.synthesis.limit
        if limit is None and self.training.steps_given is None:
            limit = MOST_ASKED
        seen = self.training.seen(pairs)
        return seen if limit is None else min(limit, seen)

    @property
    def passages_asked(self) -> int:
        """Largest number of passages that get queries in mode `corpus`, held-out ones included."""
        if self.training.steps_given is None and self.synthesis.limit is not None:
            return self.synthesis.limit
        return math.ceil(self._texts_written / self.synthesis.queries_per_passage)

    @property
    def pairs_invented_each(self) -> int:
        """Pairs that are requested for each search task in mode `tasks`; at least one."""
        wanted = self.synthesis.pairs_per_task
        if self.training.steps_given is None:  # an epoch is of all that are written
            return wanted
        return min(wanted, math.ceil(self._texts_written / self.synthesis.tasks))

    @property
    def _texts_written(self) -> int:
        """Queries or pairs to write, so that enough are left for training when some are held out and others dropped."""
        share, steps = self.data.held_out, self.training.steps_given
        assert isinstance(share, int | float)  # sources cannot be held out of what is still to be written
        pairs = MOST_ASKED if steps is None else steps * self.training.batch_size
        return math.ceil(WRITTEN_SURPLUS * pairs / (1 - share))

    @property
    def prompt_style(self) -> Literal["per-grade", "all-grades"]:
        """Prompt style in force. For `auto`, the likely one before a probe."""
        if self.synthesis.prompt_style != "auto":
            return self.synthesis.prompt_style
        return "all-grades" if self.llm.provider == "endpoint" else "per-grade"

    def fingerprint(self, *sections: str) -> str:
        """Digest the named sections, and nothing else.

        Some names stand for parts of sections: "asked" for the tasks of the evaluation, "drawing" for what decides
        which passages get queries, "judging" for what decides how the judge's encoder measures, "filtering" for what
        decides which written queries are kept, "reading" for how much of a text training reads, "teaching" for what
        the scores of a teacher take from other sections.
        """
        synthesis, grading = self.synthesis, self.grading
        settings = self.model_dump(exclude=OUTCOME_NEUTRAL)
        settings["drawing"] = [synthesis.mode, synthesis.limit if synthesis.mode == "corpus" else None]
        settings["judging"] = [grading.judge_model, grading.judge_max_tokens, grading.bounds]
        settings["judging"] += [grading.query_prompt, grading.document_prompt, grading.precision]
        settings["asked"] = self.evaluation.tasks
        settings["reading"] = self.training.max_tokens or self.model.max_tokens
        if self.training.needs_judge_vectors:
            settings["training"]["judge"] = settings["judging"]
        settings["teaching"] = [*settings["judging"], self.mining.language] if self.training.has_fused_teacher else []
        settings["filtering"] = [grading.round_trip, grading.most_answers]
        return self.digest({name: settings[name] for name in sections})

    @staticmethod
    def digest(value: Any) -> str:
        """Digest a JSON value: equal values have equal digests."""
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _onnx_can_pool_so(self) -> "Config":
        if self.export.onnx and not self.model.prompt_in_pooling:
            found = "export.onnx: found true; a graph cannot know which tokens are a prompt's"
            raise ValueError(f"{found}, so it wants model.prompt_in_pooling = true")
        return self

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "Config":
        mode, data = self.synthesis.mode, self.data
        if mode == "negatives" and data.pairs is None:
            raise ValueError("data.pairs: missing; add it, or set synthesis.mode to have the pairs written")
        if mode != "negatives" and data.pairs is not None:
            raise ValueError(f'data.pairs: synthesis.mode = "{mode}" has the pairs written; take it out')
        if mode == "corpus" and data.corpus is None:
            raise ValueError('data.corpus: missing; synthesis.mode = "corpus" writes queries for its passages')
        if mode == "tasks" and not self.synthesis.domains:
            raise ValueError('synthesis.domains: missing; synthesis.mode = "tasks" wants a list such as ["cooking"]')
        if mode == "tasks" and data.corpus is not None:
            raise ValueError('data.corpus: synthesis.mode = "tasks" writes all texts; take it out')
        if mode != "negatives" and isinstance(data.held_out, list):
            raise ValueError(f'data.held_out: found sources; synthesis.mode = "{mode}" wants a share, such as 0.1')
        if mode != "negatives" and self.synthesis.limit == 0:
            raise ValueError(f'synthesis.limit: found 0; synthesis.mode = "{mode}" needs the language model')
        return self


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """List the settings in which a saved configuration differs from this one, one line each, neutral ones left out."""
    neutral = tuple(f"{section}.{key}" for section, keys in OUTCOME_NEUTRAL.items() for key in keys)
    old, new = _flatten(saved), _flatten(config.model_dump(exclude_none=True))
    return [
        f"{key} = {json.dumps(new.get(key))}, in the folder {json.dumps(old.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(neutral)
    ]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
