"""The work of each stage: read its records, call the package that does the work, write the result.

The packages know records, not files; only the stages know both. Libraries that are slow to import are imported by the
stage that needs them.
"""

from dataclasses import dataclass, field


@dataclass
class Result:
    """The report of a stage: counts of its results, and the tokens and dollars spent."""

    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cost: float = 0.0
