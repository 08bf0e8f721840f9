"""What lies in a temporary file is a sequence like any other."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.data.record_file import AT_ONCE, RecordFile, take
from multigrain.records import Document, Pair

TEXTS = st.lists(st.text(max_size=8) | st.sampled_from(["x" * AT_ONCE, "\ud800", "y" * (2 * AT_ONCE)]), max_size=12)


@given(TEXTS, st.data())
def test_it_is_a_list(texts: list[str], data: st.DataObject) -> None:
    pairs = [
        Pair(str(number), text, text[::-1], group=None if number % 2 else text) for number, text in enumerate(texts)
    ]
    kept = RecordFile(Pair, pairs[:5])
    assert list(kept) == pairs[:5]
    for pair in pairs[5:]:
        kept.append(pair)
    assert (list(kept), len(kept), kept[1:3]) == (pairs, len(pairs), pairs[1:3])
    assert [kept[number] for number in range(len(pairs))] == pairs
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))), dtype=bool)
    some = take(kept, mask)
    expected = [pair for pair, wanted in zip(pairs, mask, strict=True) if wanted]
    assert list(some) == some[:] == expected == list(take(pairs, mask))
    order = data.draw(st.permutations(range(len(expected))))
    assert list(take(some, order)) == [expected[place] for place in order]
    assert [take(some, order)[place] for place in range(len(order))] == [expected[place] for place in order]


def test_two_may_read_while_one_writes(tmp_path: Path) -> None:
    kept = RecordFile(Document, (Document(str(n), "text") for n in range(3)), tmp_path)
    one, other = iter(kept), iter(kept)
    assert next(one).id == "0" and next(other).id == "0"
    kept.append(Document("3", "more"))
    assert [document.id for document in one] == ["1", "2", "3"]
    with pytest.raises(IndexError):
        kept[4]
    assert list(tmp_path.iterdir()) == []  # a killed process leaves nothing
    del kept, one, other
    gc.collect()
