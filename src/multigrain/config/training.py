"""The section `[training]`: schedule, phases, loss, and the resources of a step."""

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Dimension, Grade, Precision, Section, Share
from multigrain.config.contrast import ContrastSection
from multigrain.config.teacher import TeacherSection


class PhaseSection(Section):
    """One phase of the schedule. A phase without grades trains with in-batch negatives alone."""

    name: str = Field(min_length=1)
    grades: list[Grade]
    """Grades of the negatives of a step: one negative for each. A grade that is named twice gives two."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps of the phase. The default is its share of those of the whole schedule."""
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


FEWEST_STEPS = 60
"""Optimizer steps of a training whose length is in epochs, at least: with few pairs, one epoch is next to nothing."""
OLDER_DEFAULT = 80
"""The steps that run folders of earlier versions name where nobody had, also beside phases with steps."""
EITHER = {"epochs": "steps", "steps": "epochs"}
"""Settings of which one is given. Where settings win over those of a file, one of them takes the other out."""
MOST_GRADES = 4
"""Phases of a preset, at most: one for each grade."""


class TrainingSection(ContrastSection):
    """Settings of the training: schedule, loss, optimizer, memory and log."""

    recipe: Literal["auto", "fixed"] = "auto"
    """Whether training takes what `multigrain tune` chose for these data and this base (`auto`; without such a choice,
    the settings as they are), or always the settings as they are (`fixed`)."""
    schedule: Literal[
        "hardest",
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
    ] = "hardest"
    """Preset for the order in which training meets the grades; see `multigrain.training.grade_schedules`. `phases`
    replaces it."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the order of the tuples, the draw of negatives, and the first weights of an adapter. The default is the
    seed of the run. Trainings that differ in this seed alone share data, synthesis and grading; see `multigrain
    ablate`."""
    epochs: float | None = Field(None, gt=0)
    """Length of the whole schedule in epochs: in one, each tuple comes once. At least 60 steps are made, so that few
    tuples come more often. The default is 1, unless `steps` or those of all phases are given."""
    steps: int | None = Field(None, ge=1)
    """Length of the whole schedule in optimizer steps, in place of `epochs`."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it; a phase may have its own."""
    phases: list[PhaseSection] = []
    """Phases of your own. With `schedule = "self-paced"` each ends when its margin grows no more."""
    pace_every: int = Field(10, ge=2)
    """Steps between two evaluations on the held-out tuples, with `schedule = "self-paced"`."""
    batch_size: int = Field(64, ge=2)
    """Tuples of one step, over all processes."""
    neighbours: int = Field(8, ge=1)
    """Tuples in a group of neighbours. A batch is filled from groups whose queries and positives are near each other,
    so that they are hard negatives of each other; 1 fills batches at random."""
    by_task: bool = True
    """A batch holds tuples of one task, where tuples have tasks and there are enough of them."""
    learning_rate: float = Field(5e-5, gt=0, lt=1)
    loss: Literal["infonce", "listwise", "distill"] = "infonce"
    """Loss over the graded negatives; see `multigrain.training.objectives`."""
    teacher: TeacherSection | None = None
    """Whose scores `distill` follows."""
    false_negative_above: float | None = Field(None, gt=0)
    """Share of the positive's judge score from which a negative is taken for a false negative and left out of the loss.
    Grading drops them already by `grading.false_negative_above`; this is for trying a stricter limit."""
    guide_margin: float | None = Field(None, ge=0, lt=1)
    """Documents of a batch that the judge's embedding finds nearer to a query than its positive less this share are
    left out (GISTEmbed, arXiv 2402.16829). 0.05 leaves out what is above 95 % of the positive's cosine."""
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
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"found epochs = {self.epochs:g} and steps = {self.steps}; give one of them")
        given = self._steps_of_phases
        if given is not None and self.epochs is not None:
            raise ValueError(f"epochs = {self.epochs:g}, but the phases have {given} steps; take it out")
        if given is not None and self.steps not in (None, given, OLDER_DEFAULT):
            raise ValueError(f"steps = {self.steps}, but the phases have {given}; take it out, or give them shares")
        return self

    @model_validator(mode="after")
    def _has_hard_negatives(self) -> "TrainingSection":
        grades = any(phase.grades for phase in self.phases) if self.phases else self.schedule != "in-batch"
        if self.hardness_mode == "hard_negatives" and not grades:
            raise ValueError(
                'hardness_mode = "hard_negatives" is of no use where no phase has grades; write "in_batch_negatives"'
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
    def _steps_of_phases(self) -> int | None:
        """Steps of all phases together; None where some have a share, or there are none."""
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        return sum(given) if given and len(given) == len(self.phases) else None

    @property
    def steps_given(self) -> int | None:
        """Optimizer steps of the whole schedule, where the settings say them; None where `epochs` decides."""
        given = self._steps_of_phases
        return self.steps if given is None else given

    def total_steps(self, tuples: int) -> int:
        """Return the optimizer steps of the whole schedule, those that phases bring included.

        Where `epochs` decides, these are max(F, ceil(epochs x N / B)) for N tuples in batches of B (of N, if those are
        fewer). F is 60, or what phases need that have steps of their own or are self-paced, if that is more.

        Args:
            tuples: how many are trained on. Before grading, the number of training pairs is an upper bound.

        >>> section = TrainingSection(batch_size=64)
        >>> section.total_steps(400_000), section.total_steps(1_000_000), section.total_steps(40)
        (6250, 15625, 60)
        """
        if self.steps_given is not None:
            return self.steps_given
        epochs = 1.0 if self.epochs is None else self.epochs
        exact = epochs * tuples / self.batch_of(tuples)
        return max(self._fewest_steps, math.ceil(round(exact, 6)))  # 1.1 x 10 is a little more than 11

    @property
    def _fewest_steps(self) -> int:
        """Steps that a training has however few tuples there are, so that no phase is left without."""
        of_phases = sum(phase.steps or 1 for phase in self.phases)
        paced = self.pace_every * (len(self.phases) or MOST_GRADES) + 1 if self.is_self_paced else 0
        return max(FEWEST_STEPS, of_phases, paced)

    def batch_of(self, tuples: int) -> int:
        """Return the tuples of one step: few do not fill the batch that is wanted."""
        return min(self.batch_size, max(tuples, 1))

    def seen(self, pairs: int) -> int:
        """Return how many of so many training pairs the training can meet, at most."""
        return min(pairs, self.total_steps(pairs) * self.batch_of(pairs))

    @property
    def needs_judge_vectors(self) -> bool:
        """Whether the judge's vectors decide what stands in a batch, or counts there, or what a teacher scores."""
        return self.neighbours > 1 or self.guide_margin is not None or self.has_fused_teacher

    @property
    def has_fused_teacher(self) -> bool:
        """Whether the teacher is the judge's embedding and BM25."""
        return self.teacher is not None and self.teacher.kind == "fused"

    @property
    def is_self_paced(self) -> bool:
        """Whether a phase ends when its margin grows no more."""
        return self.schedule == "self-paced"
