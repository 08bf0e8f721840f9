"""The section `[training]`: schedule, phases, loss, and the resources of a step."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Dimension, Grade, Precision, Section, Share
from multigrain.config.teacher import TeacherSection


class PhaseSection(Section):
    """One phase of the schedule. A phase without grades trains with in-batch negatives alone."""

    name: str = Field(min_length=1)
    grades: list[Grade]
    """Grades of the negatives of a step: one negative for each. A grade that is named twice gives two."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps of the phase. The default is its share of `training.steps`."""
    share: float | None = Field(None, gt=0, le=1000)
    """Share of the steps that are left to the phases without `steps`. By default these phases have equal shares."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it."""
    weights: list[Share] | None = None
    """Weight of a negative of each grade in the loss, from 0 to 1. The default is 1."""
    weights_end: list[Share] | None = None
    """Weight of each grade at the end of the phase. The weights move linearly from `weights` to it."""
    one_at_a_time: bool = False
    """Whether a step has negatives of one grade alone. Grades come in random order, each equally often."""

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
    """Settings of the training: schedule, loss, optimizer, memory and log."""

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
    """Preset for the order in which training meets the grades; see `multigrain.training.grade_schedules`. `phases`
    replaces it."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the order of the tuples, the draw of negatives, and the first weights of an adapter. The default is the
    seed of the run. Trainings that differ in this seed alone share data, synthesis and grading; see `multigrain
    ablate`."""
    steps: int = Field(DEFAULT_STEPS, ge=1)
    """Optimizer steps of the whole schedule."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it; a phase may have its own."""
    phases: list[PhaseSection] = []
    """Phases of your own. With `schedule = "self-paced"` each ends when its margin grows no more."""
    pace_every: int = Field(10, ge=2)
    """Steps between two evaluations on the held-out tuples, with `schedule = "self-paced"`."""
    batch_size: int = Field(32, ge=2)
    """Tuples of one step, over all processes."""
    by_task: bool = True
    """A batch holds tuples of one task, where tuples have tasks and there are enough of them."""
    learning_rate: float = Field(5e-5, gt=0, lt=1)
    loss: Literal["infonce", "listwise", "distill"] = "infonce"
    """Loss over the graded negatives; see `multigrain.training.objectives`."""
    teacher: TeacherSection | None = None
    """Whose scores `distill` follows."""
    symmetric: bool = False
    """Whether the loss also asks that each positive finds its query."""
    false_negative_above: float | None = Field(None, gt=0)
    """Share of the positive's judge score from which a negative is taken for a false negative and left out of the loss.
    Grading drops them already by `grading.false_negative_above`; this is for trying a stricter limit."""
    matryoshka: list[Dimension] = []
    """Lengths at which shortened vectors are trained too (Matryoshka, arXiv 2205.13147), so that users can cut them."""
    base_share: float = Field(0.0, ge=0, lt=1)
    """Share of the base in the weights that are saved (WiSE-FT, arXiv 2109.01903): less is forgotten, for less gain."""
    dropout: bool = False
    """Whether the base keeps its own dropout. Without it a step is faster, and independent of how a batch is split."""
    precision: Precision = "fp32"
    """Precision of matrix products. `bf16` is about 1.6 times as fast on a CPU that supports it, and more on a GPU;
    `auto` takes it where the hardware supports it."""
    max_tokens: int | None = Field(None, ge=8)
    """Longest text in training, in tokens. The default is `model.max_tokens`."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens of a micro-batch; texts of similar length go together. The default is 1,024 on a CPU and 4,096 on a
    GPU."""
    activation_gb: float = Field(2.0, ge=0)
    """Memory in GB for activations that the backward pass needs. Texts beyond it are encoded twice (GradCache,
    arXiv 2101.06983), which is as exact, and slower."""
    frozen_cache_gb: float = Field(4.0, ge=0)
    """Disk space in GB for the output of frozen layers (`model.lora.top_layers`), computed once for each text. Where it
    would take more, it is computed at each step."""
    checkpoint_every: int = Field(20, ge=1)
    """Steps between checkpoints."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Longest time between two checkpoints, in minutes. Ctrl-C, SIGTERM and SIGHUP also leave one, after the step
    under way."""
    evaluate: bool = False
    """Whether the model is measured on held-out pairs before training and after each phase."""
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Services that receive the training log besides `training/log.jsonl`."""

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

    @model_validator(mode="after")
    def _teacher_fits(self) -> "TrainingSection":
        if self.loss != "distill" and self.teacher is not None:
            raise ValueError(f'teacher is of no use with loss = "{self.loss}"; set loss = "distill", or take it out')
        if self.loss == "distill" and self.teacher is None:
            kinds = 'kind = "fused", "cross-encoder", "embedder" or "judge"'
            raise ValueError(f'loss = "distill" also needs teacher: add [training.teacher] with {kinds}')
        for name in ("schedule", "phases", "false_negative_above") if self.list_length else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'{name} is of no use with the lists of a teacher; take it out, or set kind = "judge"')
        if self.teacher is not None and self.teacher.kind == "judge":
            bare = [phase.name for phase in self.phases if not phase.grades]
            if self.schedule == "in-batch" or bare:
                found = f'phase "{bare[0]}"' if bare else 'schedule = "in-batch"'
                raise ValueError(f"{found} has no negatives to be scored; distill wants two documents of each query")
        return self

    @property
    def list_length(self) -> int:
        """Most documents of a query in a step where a teacher scores lists; 0 where the schedule brings negatives."""
        return 0 if self.teacher is None or self.teacher.kind == "judge" else self.teacher.documents

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole schedule, those that phases bring included."""
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        return sum(given) if given and len(given) == len(self.phases) else self.steps

    @property
    def pairs_seen(self) -> int:
        """Largest number of pairs that training can meet: steps times batch size."""
        return self.total_steps * self.batch_size

    @property
    def is_self_paced(self) -> bool:
        """Whether a phase ends when its margin grows no more."""
        return self.schedule == "self-paced"
