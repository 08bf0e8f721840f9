"""The TOML file of a grid: arms, seeds and tuning."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from multigrain.config import Section
from multigrain.experiments.compare_runs import BASE
from multigrain.terminal import named

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class TuneSection(Section):
    """The setting to choose for each arm, and the task to choose by."""

    key: str = Field("training.learning_rate", pattern=r"^[a-z]+\.[a-z_]+$")
    values: list[Any] = Field(min_length=2)
    task: str
    """The task by whose first metric the best value is chosen."""
    seed: Seed = 0
    """Seed of the trainings that choose the value."""

    @model_validator(mode="after")
    def _is_a_choice(self) -> "TuneSection":
        if self.key == "training.seed":
            raise ValueError("tune.key: found training.seed, which the grid sets; wanted another setting")
        if self.key.startswith(("data.", "evaluation.")):
            raise ValueError(f"tune.key: found {self.key}, which changes the items measured; wanted another setting")
        if len({str(value) for value in self.values}) < len(self.values):
            raise ValueError("tune.values: a value is named twice")
        return self


class Ablation(Section):
    """The arms of a grid, its seeds, and its tuning."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    run: str
    """The TOML file of the run that the arms vary."""
    seeds: list[Seed] = Field([1, 2, 3], min_length=1, max_length=100)
    baseline: str | None = None
    """The arm that the others are compared with; by default the first. "base, not trained" may be named too."""
    arms: dict[Annotated[str, Field(pattern=r"^\w[\w .,+-]{0,99}$")], dict[str, Any]] = Field(min_length=1)
    tune: TuneSection | None = None
    keep_models: bool = False
    """Whether to keep the trained models, not only their scores."""

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    @model_validator(mode="after")
    def _arms_have_names_and_folders(self) -> "Ablation":
        folders: dict[str, str] = {}
        for name, settings in self.arms.items():
            if name == BASE:
                raise ValueError(f'arms: "{BASE}" is the name of the model before training; give the arm another')
            if Path(name).suffix in (".md", ".json", ".svg", ".png"):
                raise ValueError(f'arms: "{name}" could be an output file of the grid; give the arm another name')
            if (other := folders.setdefault(folder_of(name).casefold(), name)) != name:
                raise ValueError(f'arms: "{other}" and "{name}" would share a folder; give one another name')
            given: list[str] = [key for key in ("name", "output", "seed") if key in settings]
            training = settings.get("training")
            given += ["training.seed"] if isinstance(training, dict) and "seed" in training else []
            if given:
                raise ValueError(f"arms.{name}: sets {given[0]}, which the grid sets; remove it")
        return self

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> "Ablation":
        if self.baseline not in (None, BASE, *self.arms):
            raise ValueError(f'baseline: found "{self.baseline}"; the arms are {named(self.arms)}')
        return self


def folder_of(arm: str) -> str:
    """Return the name of an arm's folder.

    >>> folder_of("only four")
    'only_four'
    """
    return arm.replace(" ", "_")
