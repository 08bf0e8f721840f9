import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer
from multigrain.records import Pair
from multigrain.synthesis.cloze import WORD, Cloze, exchange
from multigrain.synthesis.parse import cloze_reader

# Of twenty queries more than two with a word make it common.
FIELD = [f"what does the protein {letter}{letter}{letter} bind" for letter in "abcdefghijklmnopqr"]
QUERIES = [*FIELD, "aspirin after a stroke", "who had a stroke"]


def terms(query: str, positive: str, queries: list[str] | None = None) -> list[str]:
    return Cloze(QUERIES if queries is None else queries).terms(Pair("1", query, positive))


# Which term decides


def test_the_rarer_word_comes_first() -> None:
    """Both stand once; one other query has "stroke", none has "warfarin"."""
    assert terms("warfarin for stroke", "a stroke was treated by warfarin")[:2] == ["warfarin", "stroke"]


def test_a_word_that_stands_twice_weighs_twice_and_one_that_stands_five_times_no_more() -> None:
    # log(1 + 20/1) = 3.0 for "warfarin", twice log(1 + 20/3) = 2.0 for "stroke": 4.1
    assert terms("warfarin for stroke", "a stroke, and a stroke again: warfarin")[0] == "stroke"
    assert terms("warfarin for stroke", "warfarin, warfarin: stroke, stroke, stroke, stroke")[0] == "warfarin"


def test_common_and_short_words_are_no_terms() -> None:
    """18 of 20 queries ask about a protein; "of" stands in none, but tells nothing."""
    found = terms("the fold of protein zip", "protein, of which the zip is near")
    assert found[0] == "zip"
    assert "of" not in found


def test_words_are_the_same_whatever_their_ending_and_case() -> None:
    assert terms("treat migraines", "Migraine was TREATED. The migraine went.")[:2] == ["Migraine", "TREATED"]


def test_small_and_common_words_stay_inside_a_term_and_go_at_its_ends() -> None:
    positive = "The type VI secretion system of a bacterium kills."
    assert terms("what is the type VI secretion system of a bacterium", positive)[0] == (
        "type VI secretion system of a bacterium"
    )
    assert terms("what is a type VI secretion system, of all", positive)[0] == "type VI secretion system"


@pytest.mark.parametrize("between", [", ", " - ", " or ", "\n"])
def test_what_is_not_one_phrase_is_not_one_term(between: str) -> None:
    assert terms("secretion and system", f"of secretion{between}system")[:2] == ["secretion", "system"]


def test_a_small_word_of_the_query_joins_two_terms() -> None:
    assert terms("secretion and system", "of secretion and system")[0] == "secretion and system"


def test_nothing_shared_brings_numbers_then_names_then_long_words() -> None:
    positive = "Recently the clinic of Basel gave 40 of 250 patients, and 7 from Geneva and Zurich, some paracetamol."
    assert terms("headache", positive) == ["40", "250", "Basel", "Geneva", "paracetamol", "Recently"]


def test_the_others_follow_what_is_shared_and_say_nothing_twice() -> None:
    found = terms("basel", "In Basel, Basel and Berne: 12 of 12")
    assert found[0] == "Basel"
    assert found[1:3] == ["12", "Berne"]
    assert len(found) == len(set(found))


def test_without_queries_there_still_are_terms() -> None:
    assert terms("aspirin for stroke", "of stroke by aspirin", [])[:2] == ["stroke", "aspirin"]


@pytest.mark.parametrize("positive", ["!!!", "—", "?!", "🙂"])
def test_a_positive_without_words_is_its_own_term(positive: str) -> None:
    assert terms("what", positive) == [positive]
    assert exchange(positive, positive, "no") == "no"


def test_chinese_is_taken_clause_by_clause() -> None:
    positive = "猫在夜里睡觉。狗在白天睡觉。"
    cloze = Cloze(["猫在夜里睡觉吗", "什么"], "chinese")
    assert cloze.terms(Pair("1", "狗在白天睡觉", positive))[0] == "狗在白天睡觉"
    assert cloze.terms(Pair("1", "鸟", positive)) == ["猫在夜里睡觉", "狗在白天睡觉"]
    assert exchange(positive, "狗在白天睡觉", "鸟") == "猫在夜里睡觉。鸟。"


def test_the_language_takes_its_own_endings_off() -> None:
    pair = Pair("1", "Krankheiten der Katzen", "Eine Krankheit kennt 12 Formen.")
    assert Cloze(QUERIES, "German").terms(pair)[0] == "Krankheit"
    assert Cloze(QUERIES, "english").terms(pair)[0] == "12"


TEXTS = st.text(st.sampled_from("abAB éßİ猫12-'.,\n"), min_size=1, max_size=30).filter(lambda text: bool(text.strip()))


@given(query=TEXTS, positive=TEXTS, queries=st.lists(TEXTS, max_size=4))
def test_each_term_stands_in_the_positive_and_can_be_exchanged(query: str, positive: str, queries: list[str]) -> None:
    found = terms(query, positive, queries)
    assert found
    for term in found:
        assert term in positive
        assert "XYZ" in exchange(positive, term, "XYZ")


# The exchange


def test_a_term_inside_another_word_stays() -> None:
    assert (
        exchange("iron, irony, iron-free, environ, Iron2", "iron", "zinc") == "zinc, irony, zinc-free, environ, Iron2"
    )


def test_the_case_of_the_place_is_kept() -> None:
    assert exchange("Mice eat. All mice eat.", "mice", "zebrafish") == "Zebrafish eat. All zebrafish eat."
    assert exchange("all MAPK1 is", "mapk1", "aKT2") == "all AKT2 is"
    assert exchange("all mice", "mice", "AKT2") == "all AKT2"


def test_a_term_and_its_exchange_are_text_and_no_patterns() -> None:
    assert exchange("C++ (1.5) is C++", "C++", r"\1\g<0>$") == r"\1\g<0>$ (1.5) is \1\g<0>$"
    assert exchange("1.5 and 105", "1.5", "2") == "2 and 105"


@given(
    words=st.lists(st.sampled_from(["ab", "AB", "abc", "b", "ab-b", "É", "a'b"]), min_size=1, max_size=8),
    data=st.data(),
)
def test_the_term_never_stands_there_as_a_word_afterwards(words: list[str], data: st.DataObject) -> None:
    joints = data.draw(st.lists(st.sampled_from([" ", ", ", ". ", "-"]), min_size=len(words), max_size=len(words)))
    positive = "".join(word + joint for word, joint in zip(words, joints, strict=True))
    start = data.draw(st.integers(0, len(words) - 1))
    term = data.draw(st.sampled_from([words[start], " ".join(words[start : start + 2])]))
    left = exchange(positive, term, "other")
    assert term.casefold() not in [word.casefold() for word in WORD.findall(left)]
    assume(re.search(rf"(?<!\w){re.escape(term)}(?!\w)", positive))  # as words: "ab ab" also begins "ab abc"
    assert "other" in left.casefold()


# What counts as another term


@pytest.mark.parametrize(
    ("term", "other", "same"),
    [
        ("iron", "Iron", True),
        ("treatment", "treatments", True),
        ("iron deficiency", "deficiency of iron", True),
        ("iron", "iron oxide", True),
        ("iron oxide", "iron", False),
        ("iron", "zinc", False),
        ("iron", "", True),
        ("iron", "...", True),
        ("!!!", "iron", False),
        ("!!!", "!!!", True),
        ("  iron  oxide", "IRON oxide ", True),
    ],
)
def test_is_same(term: str, other: str, same: bool) -> None:
    assert Cloze([]).is_same(term, other) is same


def test_the_same_once_more_is_no_usable_answer() -> None:
    read = cloze_reader(4, "Iron is taken.", "Iron", Cloze([]).is_same)
    assert read(Answer(' -> "zinc".')) == {4: "Zinc is taken."}
    for reply in ("iron", "Iron supplements", '"Iron."'):
        with pytest.raises(LLMReplyError, match='wanted another term in place of "Iron"'):
            read(Answer(reply))
    for reply in ("", " \n", "..."):
        with pytest.raises(LLMReplyError):
            read(Answer(reply))
