import numpy as np
import pytest
from scipy.stats import spearmanr, wilcoxon

from multigrain.evaluation import significance
from multigrain.evaluation.metrics import spearman
from multigrain.evaluation.significance import Sample, holm, paired_bootstrap, randomisation_test


def test_bootstrap_knows_a_difference_from_noise() -> None:
    draw = np.random.default_rng(0)
    before = draw.uniform(size=500)
    assert paired_bootstrap(before, before + 0.05, seed=1) == pytest.approx((0.05, 0.05, 0.05))
    noise = draw.normal(scale=0.1, size=500)
    _, low, high = paired_bootstrap(before, before + noise, seed=1)
    error = float(noise.std() / np.sqrt(500))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)  # the interval of the normal approximation
    assert paired_bootstrap([0.0, 1.0], [1.0, 1.0], seed=3) == paired_bootstrap([0.0, 1.0], [1.0, 1.0], seed=3)


def test_the_interval_knows_that_trainings_differ() -> None:
    """Two arms with the same items and a spread of 0.1 over trainings: the normal approximation says how wide."""
    draw = np.random.default_rng(1)
    items = draw.uniform(size=500)
    shifts = draw.normal(scale=0.1, size=(2, 8))
    one, other = (Sample.of(items + shift[:, None]) for shift in shifts)
    value, low, high = paired_bootstrap(one, other, seed=1)
    assert value == pytest.approx(shifts[1].mean() - shifts[0].mean())
    error = float(np.sqrt((shifts.var(axis=1) / 8).sum()))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_the_interval_of_a_rank_correlation() -> None:
    draw = np.random.default_rng(2)
    gold = draw.normal(size=300)
    before, after = gold + draw.normal(scale=2, size=300), gold + draw.normal(scale=0.5, size=300)
    value, low, high = paired_bootstrap(Sample.of(before, gold), Sample.of(after, gold), seed=1)
    expected = spearmanr(after, gold).statistic - spearmanr(before, gold).statistic
    assert value == pytest.approx(expected, abs=1e-9)
    assert low < value < high and low > 0 and high - low < 0.3
    both = Sample.of([before, after], gold)
    assert both.each() == pytest.approx([spearman(before, gold), spearman(after, gold)])


def test_randomisation_by_hand() -> None:
    """Three items, each 1 better: of the 8 ways to exchange them, all or none give a difference as large: p = 1/4."""
    assert randomisation_test([0, 0, 0], [1, 1, 1], seed=1) == pytest.approx(0.25, abs=0.02)
    assert randomisation_test([0.2, 0.4], [0.2, 0.4], seed=1) == 1
    assert randomisation_test(np.zeros(60), np.ones(60), seed=1) < 2e-4


def test_randomisation_agrees_with_another_test() -> None:
    draw = np.random.default_rng(3)
    before = draw.uniform(size=200)
    after = before + draw.normal(0.012, 0.1, size=200)
    other = wilcoxon(before, after).pvalue
    assert randomisation_test(before, after, seed=1) == pytest.approx(other, abs=0.1)
    gold = draw.normal(size=200)
    noise = draw.normal(size=(2, 200))
    assert randomisation_test(Sample.of(gold + noise[0], gold), Sample.of(gold + noise[1], gold), seed=1) > 0.05
    assert (
        randomisation_test(Sample.of(gold + 3 * noise[0], gold), Sample.of(gold + noise[1] / 3, gold), seed=1) < 0.001
    )


def test_p_is_uniform_where_there_is_no_difference() -> None:
    draw = np.random.default_rng(4)
    below = sum(randomisation_test(draw.normal(size=40), draw.normal(size=40), seed=s) < 0.1 for s in range(60))
    assert below <= 14  # 6 are expected; more than 14 of 60 would be a chance of 1 in 1,000


def test_trainings_of_a_rank_correlation_are_not_an_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trainings are no better than one of the same kind, though their mean ranks would be."""
    monkeypatch.setattr(significance, "RESAMPLES", 1000)  # they tell 0.05 well enough
    below = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        gold = draw.normal(size=100)
        noisy = gold + draw.normal(scale=2, size=(4, 100))
        below += randomisation_test(Sample.of(noisy[0], gold), Sample.of(noisy[1:], gold), seed) < 0.05
    assert below <= 7  # 2 are expected; of mean ranks it were 20


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
