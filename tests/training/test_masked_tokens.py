from itertools import chain
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from multigrain.training.masked_tokens import IGNORED, MaskedBatches, batches_of, until, windows_of
from tests.model.decoder import tokenizer

WINDOWS = st.lists(st.lists(st.integers(10, 99), min_size=3, max_size=12), min_size=1, max_size=20)


def test_long_texts_are_cut_and_every_window_ends_as_training_will_read_it(tmp_path: Path) -> None:
    words = tokenizer("both")
    found = list(windows_of(["the old cat is near the house", "the cat", ""], words, max_tokens=5))
    ids = [words.convert_ids_to_tokens(window) for window in found]
    assert ids[:2] == [["<s>", "the", "old", "cat", "</s>"], ["<s>", "is", "near", "the", "</s>"]]
    assert all(window[-1] == "</s>" and 3 <= len(window) <= 5 for window in ids)
    assert ["<s>", "the", "cat", "</s>"] in ids
    assert not any(window == ["<s>", "</s>"] for window in ids)  # nothing to learn from an empty text


def test_texts_are_read_only_as_far_as_needed() -> None:
    read: list[int] = []

    def windows() -> chain[list[int]]:
        return chain.from_iterable([read.append(n) or [n] * 4] for n in range(100))  # type: ignore[func-returns-value]

    assert len(until(windows(), 10)) == 3
    assert len(read) <= 4


@given(WINDOWS, st.integers(1, 500), st.integers(8, 64), st.integers(0, 9))
def test_batches_hold_the_tokens_asked_for_and_use_all_windows_before_any_twice(
    windows: list[list[int]], tokens: int, batch_tokens: int, seed: int
) -> None:
    batches = batches_of(windows, tokens, batch_tokens, seed)
    used = [tuple(window) for batch in batches for window in batch]
    assert tokens <= sum(map(len, used)) < tokens + max(map(len, windows))
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= batch_tokens for batch in batches)
    counts = [used.count(tuple(window)) / windows.count(window) for window in windows]
    assert max(counts) - min(counts) <= 1
    assert batches == batches_of(windows, tokens, batch_tokens, seed)


def masked(share: float = 0.5) -> MaskedBatches:
    batches = [[[1, 20, 21, 22, 2], [1, 23, 2]], [[30, 31, 32, 2]] * 50]
    return MaskedBatches(batches, masked=share, mask=9, special={1, 2, 9}, seed=3)


def test_masks_spare_the_first_token_special_tokens_and_padding() -> None:
    batches = masked(1.0)
    first = batches[0]
    assert first["input_ids"].tolist() == [[1, 9, 9, 9, 2], [1, 9, 2, 9, 9]]
    assert first["labels"].tolist() == [[IGNORED, 20, 21, 22, IGNORED], [IGNORED, 23, IGNORED, IGNORED, IGNORED]]
    assert first["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batches[1]["labels"][0].tolist() == [IGNORED, 31, 32, IGNORED]  # without a first special token
    assert batches.tokens == 8 + 50 * 4


def test_masks_are_drawn_by_the_seed_and_the_place_of_the_batch_alone() -> None:
    batches = masked()
    found = batches[1]["labels"]
    batches[0]
    torch.manual_seed(99)
    assert torch.equal(batches[1]["labels"], found)
    share = (found != IGNORED).sum() / 100
    assert 0.35 < share < 0.65
    assert len({tuple(row) for row in found.tolist()}) == 4  # rows of a batch are masked apart
