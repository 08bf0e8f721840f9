"""Windows of texts, batches of them, and the masked tokens of each batch, for masked next token prediction.

Letters: B windows in a batch, n tokens in the longest of them.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not masked."""
LEAST = 3
"""Number of tokens in the shortest window: one that is read, one that may be masked, and the end."""
SORTED = 32
"""Number of batches whose windows are sorted by length together, so that a batch has little padding."""

Window = Sequence[int]


def windows_of(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Iterator[Window]:
    """Yield the token ids of each text, with special tokens; a text of more than `max_tokens` is cut into windows."""
    for text in texts:
        found = tokenizer(text, truncation=True, max_length=max_tokens, return_overflowing_tokens=True)["input_ids"]
        # Arrays of 4 bytes a token: as lists, a hundred million tokens would take gigabytes.
        yield from (array("i", window) for window in found if len(window) >= LEAST)


def until(windows: Iterable[Window], tokens: int) -> list[Window]:
    """Return windows, in order, until they have this many tokens together; all of them if they have fewer.

    They stay in memory: those of `windows_of` take 4 bytes per token, and about 100 bytes each. A hundred million
    tokens take 0.4 GB, and 0.1 GB more if the windows have 100 tokens on average.
    """
    taken: list[Window] = []
    for window in windows:
        if tokens <= 0:
            break
        taken.append(window)
        tokens -= len(window)
    return taken


def batches_of(windows: Sequence[Window], tokens: int, batch_tokens: int, seed: int) -> list[list[Window]]:
    """Group windows into batches of at most `batch_tokens` tokens, including padding.

    The windows are used in random order, all of them before any is used again, until the batches have this many tokens
    together. A window longer than `batch_tokens` is a batch of its own.

    >>> [len(batch) for batch in batches_of([[1, 2, 3], [4, 5, 6, 7], [8, 9, 10]], 10, 8, seed=0)]
    [2, 1]
    """
    draw = np.random.default_rng([seed, 0])
    used = until((windows[place] for _ in cycle([None]) for place in draw.permutation(len(windows))), tokens)
    batches: list[list[Window]] = []
    together = SORTED * max(1, batch_tokens // max(map(len, windows)))
    for begin in range(0, len(used), together):
        batches += _filled(sorted(used[begin : begin + together], key=len), batch_tokens)
    return [batches[place] for place in draw.permutation(len(batches))]


def _filled(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Yield batches of these windows, which are sorted by length, shortest first."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


class MaskedBatches(Dataset[dict[str, Tensor]]):
    """Batches with masked tokens. The masks of a batch depend only on the seed and its index.

    An item has `input_ids`, `attention_mask` and `labels`, all (B, n), padded on the right. `labels` holds the id of
    each masked token, and `IGNORED` elsewhere. The first token of a window is never masked, because no state before it
    could predict it; nor are special tokens.

    Args:
        batches: the windows of each batch.
        masked: share of the tokens to mask.
        mask: id of the token that replaces them.
        special: ids of the special tokens.
        seed: seed of the draw.
    """

    def __init__(
        self, batches: Sequence[Sequence[Window]], *, masked: float, mask: int, special: Iterable[int], seed: int
    ) -> None:
        self._batches, self._masked, self._mask, self._seed = batches, masked, mask, seed
        self._special = torch.tensor(sorted(special))

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def tokens(self) -> int:
        """Number of tokens in all batches, without padding."""
        return sum(len(window) for batch in self._batches for window in batch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        windows = [torch.tensor(window) for window in self._batches[index]]
        tokens = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True, padding_value=self._mask)
        lengths = torch.tensor([len(window) for window in windows])
        is_text = torch.arange(tokens.shape[1]) < lengths[:, None]
        chosen = is_text & ~torch.isin(tokens, self._special) & self._drawn(index, tokens.shape)
        chosen[:, 0] = False
        return {
            "input_ids": tokens.masked_fill(chosen, self._mask),
            "attention_mask": is_text.long(),
            "labels": tokens.masked_fill(~chosen, IGNORED),
        }

    def _drawn(self, index: int, shape: torch.Size) -> Tensor:
        draw = np.random.default_rng([self._seed, 1, index])
        return torch.from_numpy(draw.random(tuple(shape)) < self._masked)
