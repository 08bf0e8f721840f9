"""The schedules of a training, as data: the order in which grades are trained.

A schedule is a list of phases. The presets are the hardest negatives alone, the curriculum of *Negative Matters*
(ACL 2025), and its controls:

    hardest         one negative of the hardest available grade
    coarse-to-fine  grade 1, then 2, 3, 4
    reverse         grade 4, then 3, 2, 1
    random          one grade at a time, equally often, in random order
    all-at-once     one negative of each grade in every step
    only-N          only grade N
    in-batch        only in-batch negatives
    overlapping     grade 1, then 1 and 2, 2 and 3, 3 and 4
    annealed        two adjacent grades at a time; the weight moves step by step from the lower to the higher
    self-paced      like coarse-to-fine, but a phase ends when the model stops improving on it
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from multigrain.config import PhaseSection, TrainingSection
from multigrain.errors import ConfigError

ALL = (1, 2, 3, 4)
LISTED = 4
"""The grade given to all documents of a teacher's list; training uses their scores instead."""


def phases_of(section: TrainingSection, grades: Iterable[int] = ALL, tuples: int = 0) -> list[PhaseSection]:
    """Return the phases in order, each with its number of steps.

    Args:
        section: the training settings.
        grades: the grades in the data, from which a preset is built.
        tuples: the number of training tuples, which is the length of an epoch. If it is unknown, 0 gives the phases of
            the shortest training, which have the same drawing.

    Raises:
        ConfigError: the schedule uses a grade that the data lacks, or the steps are too few for its phases.
    """
    present = sorted(set(grades))
    if section.list_length:
        phases, present, key = [_lists(section)], [LISTED], "training.teacher"
    elif section.phases:
        phases = section.phases
        key = "training.phases"
    else:
        phases = _preset(section.schedule, present)
        phases = [phase.model_copy(update={"temperature": section.temperature}) for phase in phases]
        key = "training.schedule"
    faults = [
        f'"{phase.name}" wants negatives of grade {grade}, but no tuple has one (available grades: {_listed(present)})'
        for phase in phases
        for grade in sorted(set(phase.grades) - set(present))
    ]
    if faults:
        raise ConfigError(key, faults)
    phases = _with_steps(phases, section.total_steps(tuples))
    total = sum(phase.steps or 0 for phase in phases)
    if section.is_self_paced and total <= len(phases) * section.pace_every:
        found = f"found {total}; {len(phases)} self-paced phases with a check every {section.pace_every} steps"
        raise ConfigError("training.steps", [f"{found} need more than {len(phases) * section.pace_every}"])
    return phases


def _listed(grades: Sequence[int]) -> str:
    return ", ".join(map(str, grades)) or "none"


def _preset(name: str, grades: Sequence[int]) -> list[PhaseSection]:
    if name.startswith("only-"):
        return [_single(int(name.removeprefix("only-")))]
    if name == "in-batch" or not grades:
        return [PhaseSection(name="in-batch", grades=[])]
    if len(grades) == 1:
        return [_single(grades[0])]
    return {
        "hardest": [_single(grades[-1])],
        "reverse": [_single(grade) for grade in reversed(grades)],
        "random": [PhaseSection(name="random", grades=list(grades), one_at_a_time=True)],
        "all-at-once": [PhaseSection(name="all grades", grades=list(grades))],
        "overlapping": [_single(grades[0]), *(_both(a, b) for a, b in pairwise(grades))],
        "annealed": [_both(a, b, [1.0, 0.0], [0.0, 1.0]) for a, b in pairwise(grades)],
    }.get(name, [_single(grade) for grade in grades])


def _single(grade: int) -> PhaseSection:
    return PhaseSection(name=f"grade {grade}", grades=[grade])


def _lists(section: TrainingSection) -> PhaseSection:
    grades = [LISTED] * (section.list_length - 1)
    return PhaseSection(name="lists", grades=grades, temperature=section.temperature)


def _both(a: int, b: int, start: list[float] | None = None, end: list[float] | None = None) -> PhaseSection:
    return PhaseSection(name=f"grades {a} and {b}", grades=[a, b], weights=start, weights_end=end)


def _with_steps(phases: Sequence[PhaseSection], total: int) -> list[PhaseSection]:
    """Give each phase without a number of steps its share of the rest, by largest remainder; at least one step."""
    shares = [phase.share for phase in phases if phase.steps is None]
    left = total - sum(phase.steps or 0 for phase in phases)
    if not shares:
        return list(phases)
    weights = [share or 1.0 for share in shares]
    if left < len(shares):
        given = f"phases with a fixed number take {total - left}, and " if left < total else ""
        wanted = f"{len(shares)} {'more ' if given else ''}phases need at least one step each; raise it"
        raise ConfigError("training.steps", [f"found {total}; {given}{wanted}"])
    exact = [left * weight / sum(weights) for weight in weights]
    counts = [max(1, int(value)) for value in exact]
    for index in sorted(range(len(exact)), key=lambda i: (int(exact[i]) - exact[i], i))[: max(0, left - sum(counts))]:
        counts[index] += 1
    while sum(counts) > left:  # some phases were rounded up to one step
        counts[counts.index(max(counts))] -= 1
    left_over = iter(counts)
    return [phase if phase.steps else phase.model_copy(update={"steps": next(left_over)}) for phase in phases]


def epochs_told(epochs: float) -> str:
    """Return a number of epochs as text.

    >>> [epochs_told(epochs) for epochs in (0.0512, 1.004, 1.5, 71.1)]
    ['0.051 epochs', '1 epoch', '1.5 epochs', '71 epochs']
    """
    number = f"{epochs:.2g}" if epochs < 10 else f"{epochs:.0f}"
    return f"{number} epoch" if number == "1" else f"{number} epochs"


def drawn(phases: Sequence[PhaseSection], width: int = 40) -> list[str]:
    r"""Draw the schedule as text: a line for each grade, a column for some steps, fuller blocks for higher weights.

    >>> from multigrain.config import TrainingSection
    >>> print("\n".join(drawn(phases_of(TrainingSection(schedule="annealed", steps=60)), 12)))
    grade 4 |        ▁▃▅▇|
    grade 3 |    ▁▃▅▇▇▅▃▁|
    grade 2 |▁▃▅▇▇▅▃▁    |
    grade 1 |▇▅▃▁        |
    """
    total = sum(phase.steps or 0 for phase in phases)
    width = min(width, total)
    grades = sorted({grade for phase in phases for grade in phase.grades}, reverse=True)
    columns = [_weights_at(phases, (column + 0.5) * total / width) for column in range(width)]
    return [f"grade {grade} |{''.join(_block(column.get(grade, 0.0)) for column in columns)}|" for grade in grades]


def _weights_at(phases: Sequence[PhaseSection], step: float) -> dict[int, float]:
    for phase in phases:
        assert phase.steps is not None
        if step < phase.steps:
            scale = 1 / len(phase.grades) if phase.one_at_a_time else 1.0
            weights: dict[int, float] = {}
            for grade, weight in zip(phase.grades, phase.weights_at(step / phase.steps), strict=True):
                weights[grade] = max(weights.get(grade, 0.0), scale * weight)  # the highest, if a grade occurs twice
            return weights
        step -= phase.steps
    return {}


def _block(weight: float) -> str:
    return " ▁▂▃▄▅▆▇█"[min(8, round(8 * weight))]
