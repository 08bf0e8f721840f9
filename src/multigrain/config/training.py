"""The section `[training]`: schedule, phases, loss, optimizer, memory and log."""

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Dimension, Grade, Precision, Section, Share
from multigrain.config.contrast import ContrastSection
from multigrain.config.teacher import TeacherSection


class PhaseSection(Section):
    """One phase of the schedule. A phase without grades trains on in-batch negatives alone."""

    name: str = Field(min_length=1)
    """Name of the phase in the log, unique in the schedule."""
    grades: list[Grade]
    """Grades of the negatives in a step, one negative for each. A grade listed twice gives two negatives."""
    steps: int | None = Field(None, ge=1)
    """Length of the phase, in optimizer steps. By default set by `share`."""
    share: float | None = Field(None, gt=0, le=1000)
    """Share of the steps left to phases without `steps`, relative to the other shares. By default these phases have
    equal shares."""
    temperature: float = Field(0.05, gt=0)
    """Divisor of the similarities in the loss."""
    weights: list[Share] | None = None
    """Weights in the loss of the negatives of each grade, from 0 to 1, one for each of `grades`. By default all are
    1."""
    weights_end: list[Share] | None = None
    """Weights at the end of the phase; they move there linearly from `weights`. By default they stay the same."""
    one_at_a_time: bool = False
    """Whether each step has negatives of a single grade. The grades come in random order, each equally often."""

    @model_validator(mode="after")
    def _fits_together(self) -> "PhaseSection":
        if self.steps is not None and self.share is not None:
            raise ValueError(f'phase "{self.name}" has both steps and share; give one of them')
        for name in ("weights", "weights_end"):
            weights = getattr(self, name)
            if weights is not None and len(weights) != len(self.grades):
                raise ValueError(f'phase "{self.name}" has {len(weights)} {name} for {len(self.grades)} grades')
        if self.one_at_a_time and not self.grades:
            raise ValueError(f'phase "{self.name}" has one_at_a_time = true but no grades; name some')
        return self

    def weights_at(self, progress: float) -> list[float]:
        """Return the weight of each grade when `progress` (from 0 to 1) of the phase is over.

        >>> PhaseSection(name="a", grades=[1, 2], weights=[1, 0.5], weights_end=[0, 1]).weights_at(0.5)
        [0.5, 0.75]
        """
        start = self.weights or [1.0] * len(self.grades)
        end = self.weights_end or start
        return [a + progress * (b - a) for a, b in zip(start, end, strict=True)]


FEWEST_STEPS = 60
"""Minimum number of optimizer steps where the length is given in epochs: with few pairs, one epoch is too short."""
OLDER_DEFAULT = 80
"""Default number of steps that earlier versions wrote into run folders, also beside phases with steps."""
EITHER = {"epochs": "steps", "steps": "epochs"}
"""Settings that exclude each other. An override of one removes the other."""
MOST_GRADES = 4
"""Maximum number of phases of a preset: one for each grade."""


class TrainingSection(ContrastSection):
    """Settings of the training: schedule, loss, optimizer, memory and log."""

    recipe: Literal["auto", "fixed"] = "auto"
    """Source of the settings. `auto`: the choice of `multigrain tune` for these data and this base, if there is one,
    else the settings in the file. `fixed`: always the settings in the file."""
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
    """Preset of phases; see `multigrain.training.grade_schedules`. `phases` replaces it. `hardest`: negatives of the
    hardest grade that the tuples have. `coarse-to-fine`: grade 1, then 2, 3, 4. `reverse`: grade 4, then 3, 2, 1.
    `random`: one grade per step, in random order. `all-at-once`: one negative of each grade in every step. `only-1` to
    `only-4`: a single grade. `in-batch`: in-batch negatives alone. `overlapping`: grade 1, then 1 and 2, 2 and 3, 3
    and 4. `annealed`: two neighbouring grades, with the weight moving from the lower to the higher. `self-paced`: like
    `coarse-to-fine`, but a phase ends when its margin on held-out tuples stops growing."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the order of the tuples, the draw of negatives, and the initial weights of an adapter. By default the
    seed of the run. Trainings that differ only in this seed share data, synthesis and grading; see
    `multigrain ablate`."""
    epochs: float | None = Field(None, gt=0)
    """Length of the whole schedule, in epochs; one epoch uses each tuple once. Training takes at least 60 steps, so a
    few tuples are used more often. The default is 1, unless `steps` or the steps of all phases are given."""
    steps: int | None = Field(None, ge=1)
    """Length of the whole schedule, in optimizer steps, in place of `epochs`. By default `epochs` sets the length."""
    temperature: float = Field(0.05, gt=0)
    """Divisor of the similarities in the loss. A phase may have its own."""
    phases: list[PhaseSection] = []
    """Phases of your own, in place of a preset. With `schedule = "self-paced"`, each ends when its margin stops
    growing."""
    pace_every: int = Field(10, ge=2)
    """Interval between two measurements of the margin, in steps, with `schedule = "self-paced"`."""
    batch_size: int = Field(64, ge=2)
    """Number of tuples in one step, over all processes."""
    neighbours: int = Field(8, ge=1)
    """Number of tuples in a group of neighbours, whose queries and positives are near each other. Batches are filled
    with whole groups, so their tuples are hard negatives of each other; 1 fills batches at random."""
    by_task: bool = True
    """Whether a batch holds tuples of one task only, if tuples have tasks and a task has enough of them. With several
    sources (`data.sources`), a batch holds tuples of one source in any case, if the source has enough of them."""
    learning_rate: float = Field(5e-5, gt=0, lt=1)
    """Peak learning rate of AdamW: it rises over the first tenth of the steps, then falls to 0."""
    loss: Literal["infonce", "listwise", "distill"] = "infonce"
    """Loss function. `infonce`: the positive against all documents of the batch. `listwise`: also each negative
    against negatives of lower grades. `distill`: divergence from the scores of `teacher`, plus weighted InfoNCE."""
    teacher: TeacherSection | None = None
    """Teacher whose scores `distill` learns. Required for that loss."""
    false_negative_above: float | None = Field(None, gt=0)
    """Judge score of a negative, as a share of the positive's, from which it is left out of the loss as a false
    negative. Grading already drops by `grading.false_negative_above`; set this to try a stricter limit. By default
    there is no further limit."""
    guide_margin: float | None = Field(None, ge=0, lt=1)
    """Margin of the guide, as a share of the positive's cosine. The judge's embedding leaves out documents of the batch
    that are nearer to a query than its positive less this margin (GISTEmbed, arXiv 2402.16829): with 0.05, those above
    95 % of the positive's cosine. By default there is no guide."""
    matryoshka: list[Dimension] = []
    """Lengths to which users may truncate the vectors, in dimensions; the loss is also computed on such vectors
    (Matryoshka, arXiv 2205.13147). By default only whole vectors are trained."""
    base_share: float = Field(0.0, ge=0, lt=1)
    """Share of the base in the saved weights (WiSE-FT, arXiv 2109.01903). A larger share forgets less and gains
    less."""
    dropout: bool = False
    """Whether the base keeps its own dropout. Without it, a step is faster and does not depend on how a batch is
    split."""
    precision: Precision = "fp32"
    """Precision of matrix products. `bf16` is about 1.6 times as fast on a CPU that supports it, and more on a GPU;
    `auto` is bf16 where the hardware supports it, else fp32."""
    max_tokens: int | None = Field(None, ge=8)
    """Maximum length of a text in training, in tokens; longer texts are truncated. By default `model.max_tokens`."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Size of a micro-batch, in tokens; it groups texts of similar length. By default 1,024 on a CPU and 4,096 on a
    GPU."""
    activation_gb: float = Field(2.0, ge=0)
    """Memory for the activations that the backward pass needs, in GB. Texts beyond it are encoded twice (GradCache,
    arXiv 2101.06983), which is equally exact but slower."""
    frozen_cache_gb: float = Field(4.0, ge=0)
    """Disk space for the output of frozen layers (`model.lora.top_layers`), in GB. It is computed once for each text;
    if it needs more space than this, it is computed at each step."""
    checkpoint_every: int = Field(20, ge=1)
    """Interval between two checkpoints, in steps."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Maximum time between two checkpoints, in minutes. Ctrl-C, SIGTERM and SIGHUP also save one, after the current
    step."""
    evaluate: bool = False
    """Whether to measure the model on a sample of the held-out pairs before training and after each phase."""
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Services that receive the training log, in addition to `training/log.jsonl`."""

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
                raise ValueError(f"{name} = {found} has no effect with phases; remove one of them")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"found epochs = {self.epochs:g} and steps = {self.steps}; give one of them")
        given = self._steps_of_phases
        if given is not None and self.epochs is not None:
            raise ValueError(f"epochs = {self.epochs:g}, but the phases have {given} steps; remove epochs")
        if given is not None and self.steps not in (None, given, OLDER_DEFAULT):
            raise ValueError(f"steps = {self.steps}, but the phases have {given}; remove steps, or give phases shares")
        return self

    @model_validator(mode="after")
    def _has_hard_negatives(self) -> "TrainingSection":
        grades = any(phase.grades for phase in self.phases) if self.phases else self.schedule != "in-batch"
        if self.hardness_mode == "hard_negatives" and not grades:
            raise ValueError(
                'hardness_mode = "hard_negatives" has no effect if no phase has grades; set "in_batch_negatives"'
            )
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> "TrainingSection":
        if self.loss != "distill" and self.teacher is not None:
            raise ValueError(f'teacher has no effect with loss = "{self.loss}"; set loss = "distill", or remove it')
        if self.loss == "distill" and self.teacher is None:
            kinds = 'kind = "fused", "cross-encoder", "embedder" or "judge"'
            raise ValueError(f'loss = "distill" also needs teacher: add [training.teacher] with {kinds}')
        for name in ("schedule", "phases", "false_negative_above") if self.list_length else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'{name} has no effect with the lists of a teacher; remove it, or set kind = "judge"')
        if self.teacher is not None and self.teacher.kind == "judge":
            bare = [phase.name for phase in self.phases if not phase.grades]
            if self.schedule == "in-batch" or bare:
                found = f'phase "{bare[0]}"' if bare else 'schedule = "in-batch"'
                raise ValueError(f"{found} has no negatives to score; distill needs two documents for each query")
        return self

    @property
    def list_length(self) -> int:
        """Maximum length of the lists that a teacher scores; 0 if the schedule chooses the negatives."""
        return 0 if self.teacher is None or self.teacher.kind == "judge" else self.teacher.documents

    @property
    def _steps_of_phases(self) -> int | None:
        """Steps of all phases together; None if there are no phases, or some have shares."""
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        return sum(given) if given and len(given) == len(self.phases) else None

    @property
    def steps_given(self) -> int | None:
        """Optimizer steps of the whole schedule, if the settings give them; None if `epochs` decides."""
        given = self._steps_of_phases
        return self.steps if given is None else given

    def total_steps(self, tuples: int) -> int:
        """Return the number of optimizer steps of the whole schedule, with the steps given by phases.

        If `epochs` decides, this is max(F, ceil(epochs x N / B)) for N tuples in batches of B (of N, if there are
        fewer). F is 60, or the number that phases with their own steps, or self-paced ones, need, if that is more.

        Args:
            tuples: number of tuples to train on. Before grading, the number of training pairs is an upper bound.

        >>> section = TrainingSection(batch_size=64)
        >>> section.total_steps(400_000), section.total_steps(1_000_000), section.total_steps(40)
        (6250, 15625, 60)
        """
        if self.steps_given is not None:
            return self.steps_given
        epochs = 1.0 if self.epochs is None else self.epochs
        exact = epochs * tuples / self.batch_of(tuples)
        return max(self._fewest_steps, math.ceil(round(exact, 6)))  # as a float, 1.1 x 10 is slightly above 11

    @property
    def _fewest_steps(self) -> int:
        """Minimum number of steps, however few tuples there are, so that every phase has some."""
        of_phases = sum(phase.steps or 1 for phase in self.phases)
        paced = self.pace_every * (len(self.phases) or MOST_GRADES) + 1 if self.is_self_paced else 0
        return max(FEWEST_STEPS, of_phases, paced)

    def batch_of(self, tuples: int) -> int:
        """Return the number of tuples in one step: `batch_size`, or all tuples if there are fewer."""
        return min(self.batch_size, max(tuples, 1))

    def seen(self, pairs: int) -> int:
        """Return the maximum number of the given training pairs that training can see."""
        return min(pairs, self.total_steps(pairs) * self.batch_of(pairs))

    @property
    def needs_judge_vectors(self) -> bool:
        """Whether the judge's vectors are needed: to fill batches, for the guide, or for a `fused` teacher."""
        return self.neighbours > 1 or self.guide_margin is not None or self.has_fused_teacher

    @property
    def has_fused_teacher(self) -> bool:
        """Whether the teacher is the judge's embedding and BM25."""
        return self.teacher is not None and self.teacher.kind == "fused"

    @property
    def is_self_paced(self) -> bool:
        """Whether a phase ends when its margin stops growing."""
        return self.schedule == "self-paced"
