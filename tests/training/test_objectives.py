import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from multigrain.training.objectives import LEFT_OUT, Distillation, Similarities, distill, infonce, listwise

NAN = float("nan")


def batch(own: list[float], grades: list[int], **more: list[float]) -> Similarities:
    """One query; beside its own documents there is one of another query, with similarity 0.5."""
    to_own = torch.tensor([own], dtype=torch.float64)
    weights = torch.tensor([more.get("weights", [1.0] * len(own))], dtype=torch.float64)
    to_all = torch.cat([to_own + weights.log(), torch.tensor([[0.5]])], dim=1)
    scores = torch.tensor([more.get("scores", [NAN] * len(own))], dtype=torch.float64)
    columns = torch.arange(len(own))[None]
    return Similarities(to_all, to_own[:, 0], to_own, torch.tensor([grades]), scores, weights, 0.5, columns)


def value(loss: Tensor) -> float:
    return float(loss[0])


def test_infonce_by_hand() -> None:
    found = value(infonce(batch([2.0, 1.0], [5, 1])))
    e = math.exp
    assert math.isclose(found, -math.log(e(2) / (e(2) + e(1) + e(0.5))))
    halved = value(infonce(batch([2.0, 1.0], [5, 1], weights=[1.0, 0.5])))
    assert math.isclose(halved, -math.log(e(2) / (e(2) + 0.5 * e(1) + e(0.5))))
    left_out = value(infonce(batch([2.0, 1.0], [5, 1], weights=[1.0, 0.0])))
    assert math.isclose(left_out, -math.log(e(2) / (e(2) + e(0.5))))


def test_both_directions_by_hand() -> None:
    """The mean of two losses; the positive's softmax is over queries, of which the first is its own."""
    e = math.exp
    both = replace(batch([2.0, 1.0], [5, 1]), to_queries=torch.tensor([[2.0, 0.3, LEFT_OUT]], dtype=torch.float64))
    forth = -math.log(e(2) / (e(2) + e(1) + e(0.5)))
    back = -math.log(e(2) / (e(2) + e(0.3)))
    assert math.isclose(value(infonce(both)), (forth + back) / 2)
    several = replace(both, to_positive=torch.tensor([(2.0 + 0.5) / 2], dtype=torch.float64))  # two positives
    other = -math.log(e(0.5) / (e(2) + e(1) + e(0.5)))
    assert math.isclose(value(infonce(several)), ((forth + other) / 2 + back) / 2)


def test_listwise_by_hand() -> None:
    e = math.exp
    # positive > grade 4 > grades 2, 2; the two of grade 2 have nothing below them
    found = value(listwise(batch([2.0, 0.3, 1.0, 0.7], [5, 2, 4, 2])))
    first = -math.log(e(2) / (e(2) + e(0.3) + e(1) + e(0.7) + e(0.5)))
    second = -math.log(e(1) / (e(1) + e(0.3) + e(0.7)))
    assert math.isclose(found, (first + second) / 2)


def test_listwise_with_one_grade_is_infonce() -> None:
    one = batch([2.0, 1.0, 0.1], [5, 3, 3])
    assert value(listwise(one)) == value(infonce(one))


def test_listwise_leaves_out_what_has_no_weight_or_no_grade() -> None:
    whole = batch([2.0, 1.0, 9.0, 0.1], [5, 3, 1, 0], weights=[1.0, 1.0, 0.0, 0.0])
    assert value(listwise(whole)) == value(infonce(whole))
    own = torch.tensor([[2.0, 1.0, 9.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 1.0, 0.0]])
    grades, columns = torch.tensor([[5, 3, 1]]), torch.tensor([[0, 1, 2]])
    masked = Similarities(own + weights.log(), own[:, 0], own, grades, weights, weights, 1.0, columns)
    listwise(masked).sum().backward()
    assert own.grad is not None
    assert own.grad.isfinite().all()
    assert own.grad[0, 2] == 0


def test_a_weight_fades_a_negative_out() -> None:
    """In annealed training weights go to 0; nothing may jump on the way."""
    whole, gone = ({"scores": [0.9, 0.4, 0.7], "weights": [1.0, 1.0, weight]} for weight in (1e-9, 0.0))
    for objective in (infonce, listwise, distill):
        near, at = (value(objective(batch([2.0, 1.0, 1.5], [5, 2, 4], **case))) for case in (whole, gone))
        assert math.isclose(near, at, rel_tol=1e-6)


def test_the_order_of_the_columns_does_not_matter() -> None:
    one = batch([2.0, 0.3, 1.0, 0.7], [5, 1, 4, 2], scores=[0.9, 0.1, 0.8, 0.5])
    other = batch([2.0, 1.0, 0.7, 0.3], [5, 4, 2, 1], scores=[0.9, 0.8, 0.5, 0.1])
    for objective in (infonce, listwise, distill):
        assert math.isclose(value(objective(one)), value(objective(other)))


def test_distill_by_hand() -> None:
    """T is 0.5, that of the teacher 0.2, that of infonce 0.25: similarities are doubled there."""
    e = math.exp
    settings = Distillation(0.2, infonce_weight=0.1, infonce_temperature=0.25, false_negative_above=0.6)
    found = batch([2.0, 1.0, 0.8, 7.0], [5, 3, 3, 0], scores=[0.9, 0.6, 0.4, NAN], weights=[1.0, 1.0, 1.0, 0.0])
    teacher, student = [e(4.5), e(3), e(2)], [e(2), e(1), e(0.8)]
    pairs = [(t / sum(teacher), s / sum(student)) for t, s in zip(teacher, student, strict=True)]
    divergence = sum(t * math.log(t / s) for t, s in pairs)
    told_apart = -math.log(e(4) / (e(4) + e(1.6) + e(1)))  # the first negative has 0.6 > 0.6 * 0.9
    assert math.isclose(value(distill(found, settings)), divergence + 0.1 * told_apart)
    stricter = replace(settings, false_negative_above=0.4)
    assert math.isclose(value(distill(found, stricter)), divergence - 0.1 * math.log(e(4) / (e(4) + e(1))))


def test_distill_sharpens_both_directions() -> None:
    """T is 0.5, that of infonce 0.25: similarities are doubled in both softmaxes."""
    e = math.exp
    settings = Distillation(infonce_weight=1.0, infonce_temperature=0.25)
    one = batch([2.0, 1.0], [5, 3], scores=[0.9, 0.4])
    both = replace(one, to_queries=torch.tensor([[2.0, 0.3]], dtype=torch.float64))
    divergence = value(distill(one, replace(settings, infonce_weight=0.0)))
    forth, back = -math.log(e(4) / (e(4) + e(2) + e(1))), -math.log(e(4) / (e(4) + e(0.6)))
    assert math.isclose(value(distill(both, settings)), divergence + (forth + back) / 2)


def test_scores_beyond_the_bounds_are_cut_and_the_rest_scaled() -> None:
    settings = Distillation(false_negative_above=0.3, lowest=-8.0, highest=12.0)
    raw = batch([2.0, 1.0, 0.8, 0.1], [5, 3, 3, 3], scores=[40.0, 2.0, -3.0, -100.0])
    scaled = batch([2.0, 1.0, 0.8, 0.1], [5, 3, 3, 3], scores=[1.0, 0.5, 0.25, 0.0])
    plain = replace(settings, lowest=0.0, highest=1.0)
    assert math.isclose(value(distill(raw, settings)), value(distill(scaled, plain)))


def test_a_student_that_agrees_with_the_teacher_has_nothing_to_learn_from_it() -> None:
    agreed = batch([1.8, 0.8], [5, 3], scores=[0.9, 0.4])
    settings = Distillation(0.5, infonce_temperature=0.5)
    assert math.isclose(value(distill(agreed, settings)), 0.1 * value(infonce(agreed)))
    assert abs(value(distill(agreed, replace(settings, infonce_weight=0.0)))) < 1e-12


def test_a_teacher_that_scores_a_negative_highest_leaves_the_positive_in() -> None:
    found = batch([2.0, 1.0], [5, 3], scores=[0.1, 0.9])
    settings = Distillation(infonce_weight=1.0, infonce_temperature=0.5)
    without = value(distill(found, replace(settings, infonce_weight=0.0)))
    assert math.isclose(value(distill(found, settings)) - without, math.log1p(math.exp(0.5 - 2)))


def test_every_document_with_a_weight_wants_a_score() -> None:
    with pytest.raises(ValueError, match="distill needs the teacher's score of each"):
        distill(batch([2.0, 1.0], [5, 3], scores=[0.9, NAN]))


def test_left_out_means_no_gradient() -> None:
    to_all = torch.tensor([[2.0, LEFT_OUT, 0.5]], requires_grad=True)
    empty = torch.zeros(1, 1)
    infonce(Similarities(to_all, to_all[:, 0], empty, empty, empty, empty, 1.0, empty)).sum().backward()
    assert to_all.grad is not None
    assert to_all.grad[0, 1] == 0
