from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.evaluation.metrics import ndcg, recall, reciprocal_rank, score_ranking, spearman
from multigrain.evaluation.nearest import nearest
from multigrain.records import Document

# Similarities of a few values only, so that there are ties; the last documents come in a block of their own.
SIMILARITIES = st.lists(st.lists(st.integers(-3, 3), min_size=12, max_size=12), min_size=1, max_size=4)


def test_metrics_by_hand() -> None:
    # Relevant documents of gains 2 and 1 at ranks 3 and 1; a third, of gain 1, is not found.
    ranking, judged = [1, 0, 2, 0], [2, 1, 1]
    ideal = 2 + 1 / log2(3) + 1 / 2
    assert ndcg(ranking, judged, 10) == pytest.approx((1 + 2 / 2) / ideal)
    assert ndcg(ranking, judged, 2) == pytest.approx(1 / (2 + 1 / log2(3)))
    assert reciprocal_rank(ranking, 10) == 1
    assert reciprocal_rank([0, 0, 1], 2) == 0
    assert recall(ranking, judged, 100) == pytest.approx(2 / 3)


@given(SIMILARITIES, st.lists(st.integers(-1, 2), min_size=12, max_size=12))
def test_metrics_are_trec_evals_also_for_ties(similarities: list[list[int]], grades: list[int]) -> None:
    """The same rankings and values as trec_eval's own code, which knows no cut for the reciprocal rank."""
    import pytrec_eval

    documents = [Document(str(number), str(number)) for number in range(12)]
    identity = np.eye(12, dtype=np.float32)
    matrix = np.array(similarities, dtype=np.float32)
    found = nearest(matrix, documents, lambda texts, role: identity[[int(t) for t in texts]], 100)
    judged = {str(number): grade for number, grade in enumerate(grades)}
    run = {str(q): {str(d): float(v) for d, v in enumerate(row)} for q, row in enumerate(similarities)}
    measures = {"ndcg_cut.10", "recip_rank", "recall.100"}
    theirs = pytrec_eval.RelevanceEvaluator(dict.fromkeys(run, judged), measures).evaluate(run)
    for query, best in enumerate(found.ranked()):
        ours, other = score_ranking([judged[id] for _, id in best], list(judged.values())), theirs[str(query)]
        assert ours["nDCG@10"] == pytest.approx(other["ndcg_cut_10"], abs=1e-9)
        assert ours["Recall@100"] == pytest.approx(other["recall_100"], abs=1e-9)
        reciprocal = other["recip_rank"] if other["recip_rank"] >= 1 / 10 else 0
        assert ours["MRR@10"] == pytest.approx(reciprocal, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_is_scipys_also_for_ties(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert spearman(one, other) == 0
    else:
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)
