"""What a grade means: a band of relevance, measured against the positive.

For a query q, its positive p and a candidate c, judged by a relevance s (here a cosine),

    r(c) = s(q, c) / s(q, p)

is the candidate's *relative relevance*. The bounds b1 < b2 < b3 < b4 cut it into

    grade 1: r < b1      grade 2: b1 <= r < b2      grade 3: b2 <= r < b3      grade 4: b3 <= r < b4

and b4 <= r is taken for a false negative (the positive-aware rule of NV-Retriever, arXiv 2407.15831).
Written and mined candidates are cut by the same bounds, so a tuple's grades rise with relevance by
construction, whoever proposed them.
"""

from bisect import bisect_right
from collections.abc import Sequence

FALSE_NEGATIVE = 5
"""What `grade_of` answers for a candidate that is too close to the positive."""


def grade_of(relative: float, bounds: Sequence[float]) -> int:
    """The grade 1..4 of a relative relevance, or `FALSE_NEGATIVE`.

    >>> [grade_of(r, (0.35, 0.6, 0.8, 0.95)) for r in (-0.1, 0.35, 0.79, 0.8, 0.95)]
    [1, 2, 3, 4, 5]
    """
    return bisect_right(bounds, relative) + 1
