"""The section `[training]`: schedule, phases, loss, and the resources of a step."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Dimension, Grade, Precision, Section, Share


class PhaseSection(Section):
    """A part of the schedule; no grades means in-batch negatives alone."""

    name: str = Field(min_length=1)
    grades: list[Grade]
    """A step has one negative of each; a grade that is named twice has two."""
    steps: int | None = Field(None, ge=1)
    """By default the phase's share of training.steps."""
    share: float | None = Field(None, gt=0, le=1000)
    """Of the steps that phases without a number of steps have among them; by default they have equal shares."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it."""
    weights: list[Share] | None = None
    """How much a negative of each of the grades counts, from 0 to 1; by default 1."""
    weights_end: list[Share] | None = None
    """The same at the end of the phase; in between the weights move evenly."""
    one_at_a_time: bool = False
    """A step has negatives of one of the grades, in random order, each as often as the others."""

    @model_validator(mode="after")
    def _fits_together(self) -> "PhaseSection":
        if self.steps is not None and self.share is not None:
            raise ValueError(f'phase "{self.name}" has steps and share; give one of them')
        for name in ("weights", "weights_end"):
            weights = getattr(self, name)
            if weights is not None and len(weights) != len(self.grades):
                raise ValueError(f'phase "{self.name}" has {len(weights)} {name} for {len(self.grades)} grades')
        if self.one_at_a_time and not self.grades:
            raise ValueError(f'phase "{self.name}" has one grade at a time, and no grades; name some')
        return self

    def weights_at(self, progress: float) -> list[float]:
        """The weight of each of the grades when `progress` (from 0 to 1) of the phase is over.

        >>> PhaseSection(name="a", grades=[1, 2], weights=[1, 0.5], weights_end=[0, 1]).weights_at(0.5)
        [0.5, 0.75]
        """
        start = self.weights or [1.0] * len(self.grades)
        end = self.weights_end or start
        return [a + progress * (b - a) for a, b in zip(start, end, strict=True)]


DEFAULT_STEPS = 80


class TrainingSection(Section):
    """How the model is trained."""

    schedule: Literal[
        "coarse-to-fine",
        "reverse",
        "random",
        "all-at-once",
        "only-1",
        "only-2",
        "only-3",
        "only-4",
        "in-batch",
        "overlapping",
        "annealed",
        "self-paced",
    ] = "all-at-once"
    """Which grades of negatives training meets when; see `multigrain.training.grade_schedules`. Or give `phases`."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Of the order of the tuples, of the negatives that are drawn, and of what an adapter begins with; by default the
    run's. Trainings that differ in it alone share data, synthesis and grading: see `multigrain ablate`."""
    steps: int = Field(DEFAULT_STEPS, ge=1)
    """Optimiser steps of the whole schedule."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it; a phase may have its own."""
    phases: list[PhaseSection] = []
    """A schedule of your own (with `schedule = "self-paced"`: one whose phases end when they have taught enough)."""
    pace_every: int = Field(10, ge=2)
    """Self-paced: steps between two looks at the held-out tuples."""
    batch_size: int = Field(32, ge=2)
    """Tuples of one step, over all processes."""
    by_task: bool = True
    """A batch holds tuples of one task, where tuples have tasks and there are enough of them."""
    learning_rate: float = Field(5e-5, gt=0, lt=1)
    loss: Literal["infonce", "listwise", "distill"] = "infonce"
    """See `multigrain.training.objectives`."""
    symmetric: bool = False
    """Positives must find their queries too."""
    false_negative_above: float | None = Field(None, gt=0)
    """Negatives whose judge score is at least this share of the positive's do not count; grading did so already with
    the last of grading.bounds, so this is for trying stricter limits."""
    matryoshka: list[Dimension] = []
    """Train the first so many numbers of the vectors too, so that they can be cut to that length."""
    base_share: float = Field(0.0, ge=0, lt=1)
    """Share of the base in the weights that are saved (a soup of both models): less is forgotten, for less gain."""
    dropout: bool = False
    """Keep the base's own dropout. Without it a step is faster, and does not depend on how a batch is split."""
    precision: Precision = "fp32"
    """`bf16`: matrix products in half precision (about 1.6 times as fast on a CPU that can, more on a GPU); `auto`:
    where the hardware can."""
    max_tokens: int | None = Field(None, ge=8)
    """Cut texts to this length in training alone; by default model.max_tokens."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens that are encoded at once, texts of like length together; by default 1,024 on a CPU, 4,096 on a GPU."""
    activation_gb: float = Field(2.0, ge=0)
    """Memory for what the backward pass needs. Texts beyond it are encoded twice (GradCache): as exact, but slower."""
    frozen_cache_gb: float = Field(4.0, ge=0)
    """Disk space for the output of layers that are not trained (model.lora.top_layers), computed once for each text;
    if it takes more, it is computed at each step."""
    checkpoint_every: int = Field(20, ge=1)
    """Steps between checkpoints."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """And the longest time between them. Ctrl-C, SIGTERM and SIGHUP leave one too, when the step under way is done."""
    evaluate: bool = False
    """Measure the model on held-out pairs before training and after each phase."""
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Where the training log goes besides training/log.jsonl."""

    @field_validator("phases")
    @classmethod
    def _names_differ(cls, phases: list[PhaseSection]) -> list[PhaseSection]:
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phase names must differ, found {names}")
        return phases

    @model_validator(mode="after")
    def _one_schedule(self) -> "TrainingSection":
        for name in ("schedule", "temperature"):
            found = getattr(self, name)
            if self.phases and found not in (type(self).model_fields[name].default, "self-paced"):
                raise ValueError(f"{name} = {found} is of no use with phases; take one of them out")
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        if given and len(given) == len(self.phases) and self.steps not in (DEFAULT_STEPS, sum(given)):
            raise ValueError(
                f"steps = {self.steps}, but the phases have {sum(given)}; take it out, or give them shares"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole schedule, the numbers that phases bring included."""
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        return sum(given) if given and len(given) == len(self.phases) else self.steps

    @property
    def pairs_seen(self) -> int:
        """Most pairs that training can meet: one in each place of each batch."""
        return self.total_steps * self.batch_size

    @property
    def is_self_paced(self) -> bool:
        """Whether phases end when the model gets no better at them."""
        return self.schedule == "self-paced"
