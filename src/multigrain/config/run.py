"""All sections of a run together, and the fingerprints that decide which stages are run again."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from multigrain.config.adapt import AdaptSection
from multigrain.config.base import Section
from multigrain.config.baseline import BaselineSection
from multigrain.config.data import DataSection, SourceSection
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
    "adapt": {"checkpoint_minutes"},
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
"""Settings that can change without running any stage again."""

MOST_ASKED = 2560
"""Maximum number of training pairs to ask the language model about if neither `synthesis.limit` nor the number of
training steps is given: each pair costs requests, and an epoch may hold any number of pairs."""
WRITTEN_SURPLUS = 2
"""Number of queries to request for each one that training can see; filters drop up to half of them."""


class Config(Section):
    """All settings of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, and of its folder in `output`: letters, digits, dots, hyphens and underscores."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Seed of all random choices of the run."""
    output: str = "runs"
    """Folder of the run folders, relative to the folder in which the command is run."""
    data: DataSection
    """Pairs, corpus, and the part held out for the evaluation."""
    llm: LLMSection = LLMSection()
    """Language model: server, caps and prices."""
    synthesis: SynthesisSection = SynthesisSection()
    """Texts that the language model writes."""
    mining: MiningSection = MiningSection()
    """Hard negatives from the corpus."""
    grading: GradingSection = GradingSection()
    """Judges, and the bounds of the grades."""
    model: ModelSection = ModelSection()
    """Base model, pooling, adapter and prompts."""
    training: TrainingSection = TrainingSection()
    """Schedule, loss, optimizer, memory and log."""
    adapt: AdaptSection | None = None
    """Adaptation of a decoder to attention in both directions, before the training. By default there is none."""
    baseline: BaselineSection = BaselineSection()
    """Further models to compare the trained model with."""
    tune: TuningSection = TuningSection()
    """Trials of `multigrain tune`."""
    evaluation: EvaluationSection = EvaluationSection()
    """Tasks and retrievers to measure."""
    export: ExportSection = ExportSection()
    """Further forms of the exported model."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output) / self.name

    @property
    def training_seed(self) -> int:
        """Seed of the training: its own if given, else the seed of the run."""
        return self.seed if self.training.seed is None else self.training.seed

    def pairs_asked(self, pairs: int) -> int:
        """Return the number of the given training pairs to ask the language model about.

        This is `synthesis.limit`; without it, all pairs if the training steps are given, else `MOST_ASKED`. It is
        never more than training can see.
        """
        limit = self.synthesis.limit
        if limit is None and self.training.steps_given is None:
            limit = MOST_ASKED
        seen = self.training.seen(pairs)
        return seen if limit is None else min(limit, seen)

    @property
    def writing(self) -> "dict[str, Config]":
        """For each source whose pairs are written, by its name, the run as it would be with this source alone.

        The name is empty for a run of one source.
        """
        if self.synthesis.mode != "negatives":
            return {"": self}
        return {source.name: self._of_written(source) for source in self.data.written_sources}

    def _of_written(self, source: SourceSection) -> "Config":
        """Return the run as it would be with a written source alone, to plan the requests for its pairs."""
        held_out, limit, steps = self.data.held_out, source.limit, self.training.steps_given
        share = 0.0 if isinstance(held_out, list) else held_out
        if limit is not None:
            limit = math.ceil(limit / self.synthesis.queries_per_passage)
        if steps is not None:
            steps = math.ceil(steps * self.data.part_of_weights(source))
        sections = {
            "data": DataSection(corpus=source.corpus, held_out=share),
            "synthesis": self.synthesis.model_copy(update={"mode": source.mode, "limit": limit}),
            "training": self.training.model_copy(update={"steps": steps, "phases": []}),
        }
        return self.model_copy(update=sections)

    @property
    def passages_asked(self) -> int:
        """Maximum number of passages that get queries in mode `corpus`, including held-out ones."""
        if self.training.steps_given is None and self.synthesis.limit is not None:
            return self.synthesis.limit
        return math.ceil(self._texts_written / self.synthesis.queries_per_passage)

    @property
    def pairs_invented_each(self) -> int:
        """Number of pairs to request for each search task in mode `tasks`; at least one."""
        wanted = self.synthesis.pairs_per_task
        if self.training.steps_given is None:  # an epoch then includes all written pairs
            return wanted
        return min(wanted, math.ceil(self._texts_written / self.synthesis.tasks))

    @property
    def _texts_written(self) -> int:
        """Number of queries or pairs to write, so that enough remain after some are held out and others dropped."""
        share, steps = self.data.held_out, self.training.steps_given
        assert isinstance(share, int | float)  # pairs that are not written yet have no sources to hold out
        pairs = MOST_ASKED if steps is None else steps * self.training.batch_size
        return math.ceil(WRITTEN_SURPLUS * pairs / (1 - share))

    @property
    def prompt_style(self) -> Literal["per-grade", "all-grades"]:
        """Prompt style in use. For `auto`, the likely one before a probe."""
        if self.synthesis.prompt_style != "auto":
            return self.synthesis.prompt_style
        return "all-grades" if self.llm.provider == "endpoint" else "per-grade"

    def fingerprint(self, *sections: str) -> str:
        """Return a digest of the named sections only.

        Some names stand for settings within sections: "asked" for the tasks of the evaluation, "drawing" for the choice
        of passages that get queries, "judging" for the judge's encoder, "filtering" for the filters of written
        queries, "attending" for the base and its attention, "reading" for the length of texts in training, "teaching"
        for the settings of other sections that the scores of a teacher depend on.
        """
        synthesis, grading = self.synthesis, self.grading
        settings = self.model_dump(exclude=OUTCOME_NEUTRAL)
        if self.data.sources:  # how often a source is trained on does not change the data, unless it is never
            shares = [
                settings["data"].pop("weight_exponent"),
                *(part.pop("weight") for part in settings["data"]["sources"]),
            ]
            settings["training"]["shares"] = shares
            if unused := [source.name for source in self.data.sources if source.weight == 0]:
                settings["data"]["unused"] = unused
        settings["drawing"] = [synthesis.mode, synthesis.limit if synthesis.mode == "corpus" else None]
        if self.data.written_sources:
            settings["drawing"] += [own.synthesis.limit for own in self.writing.values()]
        settings["judging"] = [grading.judge_model, grading.judge_max_tokens, grading.bounds]
        settings["judging"] += [grading.query_prompt, grading.document_prompt, grading.precision]
        settings["asked"] = self.evaluation.tasks
        settings["attending"] = [self.model.base, self.model.bidirectional]
        settings["reading"] = self.training.max_tokens or self.model.max_tokens
        if self.training.needs_judge_vectors:
            settings["training"]["judge"] = settings["judging"]
        settings["teaching"] = [*settings["judging"], self.mining.language] if self.training.has_fused_teacher else []
        settings["filtering"] = [grading.round_trip, grading.most_answers]
        return self.digest({name: settings[name] for name in sections})

    @staticmethod
    def digest(value: Any) -> str:
        """Return a digest of a JSON value. Equal values have equal digests."""
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _onnx_can_pool_so(self) -> "Config":
        if self.export.onnx and not self.model.prompt_in_pooling:
            found = "export.onnx: found true; a graph cannot tell which tokens belong to a prompt"
            raise ValueError(f"{found}, so set model.prompt_in_pooling = true")
        return self

    @model_validator(mode="after")
    def _adapts_to_both_directions(self) -> "Config":
        if self.adapt is not None and self.model.bidirectional is False:
            found = "adapt: it prepares a decoder for attention in both directions, but model.bidirectional is false"
            raise ValueError(f"{found}; set it to true, or remove the section")
        return self

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "Config":
        mode, data = self.synthesis.mode, self.data
        if mode != "negatives" and data.sources:
            found = f'synthesis.mode: found "{mode}" beside [[data.sources]], each of which has its own mode'
            raise ValueError(f'{found}; remove it, and set mode = "{mode}" in the source to be written')
        if mode == "negatives" and data.pairs is None and not data.sources:
            raise ValueError("data.pairs: missing; add it, or set synthesis.mode to have the pairs written")
        if mode != "negatives" and data.pairs is not None:
            raise ValueError(f'data.pairs: synthesis.mode = "{mode}" writes the pairs; remove it')
        if mode == "corpus" and data.corpus is None:
            raise ValueError('data.corpus: missing; synthesis.mode = "corpus" writes queries for its passages')
        if mode == "tasks" and not self.synthesis.domains:
            raise ValueError('synthesis.domains: missing; synthesis.mode = "tasks" needs a list such as ["cooking"]')
        invented = [source.name for source in data.sources if source.mode == "tasks"]
        if invented and not self.synthesis.domains:
            found = f'mode = "tasks" of the source "{invented[0]}"'
            raise ValueError(f'synthesis.domains: missing; {found} needs a list such as ["cooking"]')
        if mode == "tasks" and data.corpus is not None:
            raise ValueError('data.corpus: synthesis.mode = "tasks" writes all texts; remove it')
        if mode != "negatives" and isinstance(data.held_out, list):
            raise ValueError(f'data.held_out: found sources; synthesis.mode = "{mode}" needs a share, such as 0.1')
        if mode != "negatives" and self.synthesis.limit == 0:
            raise ValueError(f'synthesis.limit: found 0; synthesis.mode = "{mode}" needs the language model')
        return self


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Return the settings in which a saved configuration differs from this one, one line each, without neutral ones."""
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
