import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multigrain.training.unique_texts import cut, distinct

TEXTS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=3, max_size=3)


def features(texts: list[list[int]], side: str = "right", **others: Any) -> dict[str, Any]:
    longest = max(map(len, texts))
    ids, mask = torch.full((len(texts), longest), 9), torch.zeros((len(texts), longest), dtype=torch.long)
    for row, text in enumerate(texts):
        span = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[row, span], mask[row, span] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 10 * mask, **others}


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_every_text_is_found_where_it_stood_and_encoded_once(columns: list[list[list[int]]], side: str) -> None:
    texts = distinct([features(column, side) for column in columns], side, 9)
    (group,) = texts.groups
    mask = group["attention_mask"].bool()
    rows = [group["input_ids"][row][mask[row]].tolist() for row in range(len(mask))]
    assert [[rows[place] for place in column] for column in texts.places.tolist()] == columns
    assert len(rows) == len({tuple(row) for row in rows}) == len(set(texts.identities.tolist()))
    assert [len(row) for row in rows] == sorted(map(len, rows), reverse=True)
    assert (group["token_type_ids"] == group["input_ids"] * 10 * mask).all()
    assert (group["input_ids"][~mask] == 9).all()
    assert texts.tokens == sum(map(len, rows))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cut_has_no_padding_in_common(side: str) -> None:
    column = [[1], [1, 2], [1, 2, 3]]
    (group,) = distinct([features(column, side)], side, 9).groups
    part = cut(group, 1, 3, side)
    assert part["input_ids"].tolist() == ([[1, 2], [9, 1]] if side == "left" else [[1, 2], [1, 9]])
    assert part["attention_mask"].tolist() == ([[1, 1], [0, 1]] if side == "left" else [[1, 1], [1, 0]])


def test_columns_with_other_prompts_are_encoded_apart_but_equal_texts_are_equal() -> None:
    columns = [features([[5, 1], [5, 2]], prompt_length=1), features([[1], [2]]), features([[2], [5, 1]])]
    texts = distinct(columns)
    assert [("prompt_length" in group, len(group["input_ids"])) for group in texts.groups] == [(True, 2), (False, 3)]
    identities = texts.identities[texts.places]
    assert identities[0, 0] == identities[2, 1]
    assert identities[1, 1] == identities[2, 0]
    assert len(set(identities.flatten().tolist())) == 4


def test_which_text_comes_first_decides_nothing_but_the_order() -> None:
    column = [[random.Random(i).randint(1, 3)] * (1 + i % 3) for i in range(9)]
    one, other = distinct([features(column)]), distinct([features(column)])
    assert torch.equal(one.places, other.places)
    assert torch.equal(one.identities, other.identities)
