"""The table that stands in place of a dict is one."""

import random

from hypothesis import given
from hypothesis import strategies as st

from multigrain.data import key_table
from multigrain.data.key_table import SLACK, KeyTable, exact_key, text_key
from multigrain.records import identity

KEYS = st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.integers(2**64 - 4, 2**64 - 1)


@given(st.lists(st.tuples(KEYS, st.integers(0, 2**32 - 1)), max_size=300))
def test_it_is_a_dict(entries: list[tuple[int, int]]) -> None:
    """Zero and one are one key, which no digest will meet; slots run out of a small table again and again."""
    known: dict[int, int] = {}
    table = KeyTable()
    table._allocate(1)
    for key, number in entries:
        assert (key in table) == ((key or 1) in known) == (table.get(key) is not None)
        assert table.setdefault(key, number) == known.setdefault(key or 1, number)
        assert len(table) == len(known)
    assert all(table.get(key) == number for key, number in known.items())


def test_it_grows_by_many_keys() -> None:
    draw = random.Random(1)
    keys = [draw.getrandbits(64) for _ in range(20_000)]
    table = KeyTable()
    assert all(table.add(key) for key in keys)
    assert not any(table.add(key) for key in keys)
    assert len(table) == 20_000 and draw.getrandbits(64) not in table


def test_keys_that_crowd_the_last_home_find_room() -> None:
    """As many as would ever: no digest does so."""
    table = KeyTable()
    keys = range(2**64 - SLACK // 2, 2**64)
    assert all(table.add(key) for key in keys) and len(table) == SLACK // 2
    assert all(key in table for key in keys)


def test_keys_of_texts() -> None:
    assert text_key("Who  is it?") == text_key("who is it?") == int.from_bytes(identity("WHO is it?")[:8], "big")
    assert (
        len({exact_key("a", "b"), exact_key("ab"), exact_key("ab", ""), exact_key("b", "a"), exact_key("A", "b")}) == 5
    )
    assert key_table.FULL < 1
