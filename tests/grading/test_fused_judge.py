"""The sum of an embedding and BM25, by its parts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multigrain.grading.fused_judge import FusedJudge
from multigrain.model.roles import Role, Vectors
from multigrain.retrieval.bm25 import Words, statistics_of

WORDS = "cat dog tree stone river green".split()
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


def embed(texts: Sequence[str], role: Role) -> Vectors:
    """Two numbers of length 1 that differ by text and role."""
    angles = np.array([len(text) + (role == "query") for text in texts], dtype=np.float32)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@given(queries=st.lists(TEXTS, min_size=1, max_size=4), texts=st.lists(TEXTS, min_size=1, max_size=5), other=TEXTS)
def test_it_is_the_cosine_and_a_share_of_the_highest_bm25(queries: list[str], texts: list[str], other: str) -> None:
    """Also for a text that is not in the corpus; `bm25` sums over the words one by one."""
    words = Words("english")
    statistics = statistics_of(queries, texts, words)

    def bm25(query: str, text: str) -> float:
        (asked, counted), names = words([query, text])
        return statistics.bm25([names[n] for n in asked], Counter(names[n] for n in counted))

    judge = FusedJudge(embed, queries, texts, "english", 0.3)
    pairs = [(query, text) for query in queries for text in [*texts, other]]
    for (query, text), found in zip(pairs, judge.scores(pairs).tolist(), strict=True):
        highest = max(bm25(query, each) for each in texts)
        cosine = float(embed([query], "query")[0] @ embed([text], "document")[0])
        assert np.isclose(
            found, cosine + 0.3 * (bm25(query, text) / highest if highest else bm25(query, text)), atol=1e-5
        )


def test_what_does_not_count_is_not_the_highest() -> None:
    judge = FusedJudge(embed, ["cat"], ["dog", None, "tree cat"], "english", 0.3)
    cosine = float(embed(["cat"], "query")[0] @ embed(["tree cat"], "document")[0])
    assert np.isclose(judge.scores([("cat", "tree cat")])[0], cosine + 0.3)
