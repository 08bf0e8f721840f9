"""The work of each stage: read its records, call the package that does the work, write the result.

The packages know records, not files; here is where the two meet. Libraries that are slow to import are imported
by the stage that needs them.
"""

from dataclasses import dataclass, field


@dataclass
class Result:
    """The report of a stage on itself: what it made, and the tokens and dollars that went into it."""

    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cost: float = 0.0
