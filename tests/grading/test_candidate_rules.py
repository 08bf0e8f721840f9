import time
from collections import Counter
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigrain.data.words import WORD, words_in
from multigrain.grading.candidate_rules import LABEL_ECHOES, LOOP, broken_rule, is_same_text, length_against, likeness
from multigrain.records import Candidate, Pair, Source, folded

PAIR = Pair("p", "how do cats sleep at night", "Cats sleep in short naps through day and night alike.")
CHINESE = Pair(
    "p",
    "\u732b\u665a\u4e0a\u600e\u4e48\u7761\u89c9",
    "\u732b\u767d\u5929\u548c\u591c\u91cc\u90fd\u4f1a\u77ed\u6682\u5730\u5c0f\u7761\u51e0\u6b21\u3002",
)
TEN = "nine rivers run down from the cold and windy hills"


def rule(text: str, *earlier: str, pair: Pair = PAIR, source: Source = "llm") -> str | None:
    broken = broken_rule(Candidate("p", 1, text, source, "m"), pair, list(earlier))
    return broken and broken[0]


@pytest.mark.parametrize(
    ("just_broken", "just_kept", "name"),
    [
        ("two words", "three short words", "too short"),
        (" \n\t", "a b c", "too short"),
        ("Query: and so on and on", "Her query was this: who pays for it?", "echo of the prompt"),
        ('{"grade_1": "rivers run north"}', "in grade_5: rivers run north", "echo of the prompt"),
        ('{"grade_1":"rivers run north"}', "upgrade_1: rivers run north", "echo of the prompt"),
        ("Related passage: rivers run north", "This passage is about rivers.", "echo of the prompt"),
        ("I'm sorry, but I can't help with that.", "I'm sorry I was late, she said to them.", "refusal"),
        ("it is very very very very very good", "it is very very very very good", "repeats itself"),
        ("so to bed, so to bed, so to bed, so to bed, so to bed", "so to bed, so to bed, so to bed", "repeats itself"),
        (
            "Die Behandlung dauert meistens zwei ganze Wochen und bleibt ohne Schmerzen.",
            "The treatment usually takes two weeks and is without pain.",
            "other language",
        ),
        ("How do cats  SLEEP at night?", "How do dogs sleep at night?", "copy of the query"),
        (
            "Well: cats sleep in short naps through day and night alike.",
            "Well, it is known that cats sleep in short naps through day and night alike.",
            "copy of the positive",
        ),
    ],
)
def test_each_rule_at_its_limit(just_broken: str, just_kept: str, name: str) -> None:
    assert rule(just_broken) == name
    assert rule(just_kept) is None


def test_copies_of_other_candidates() -> None:
    assert rule(TEN, "something else was said", TEN.upper()) == "copy of another candidate"
    assert rule(TEN, TEN.replace("hills", "hills there")) == "copy of another candidate"
    assert rule(TEN, TEN[: len(TEN) // 2]) is None


def test_an_exchanged_word_is_no_copy() -> None:
    """Clozes are made so, and are the hardest negatives."""
    assert rule("Cats sleep in short naps through day and dusk alike.") is None
    assert rule("Dogs sleep in short naps through day and night alike.") is None
    assert rule(TEN.replace("nine", "ten"), TEN) is None
    assert rule(TEN.replace("nine ", ""), TEN) == "copy of another candidate"  # left out, not exchanged


def test_the_value_is_what_broke_the_rule() -> None:
    broken = [broken_rule(Candidate("p", 1, text, "llm", "m"), PAIR, []) for text in ("two words", PAIR.positive)]
    assert broken == [("too short", 2.0), ("copy of the positive", 1.0)]


def test_labels_and_loops_of_the_corpus_are_its_own() -> None:
    for text in (
        "Question: who? Answer: nobody knows",
        "going going going going going going",
        "Der Hund schl\u00e4ft auf dem Sofa im Haus.",
    ):
        assert rule(text, source="mined") is None
        assert rule(text) is not None
    pair = Pair("p", "who pays", "Question: who pays? Answer: the owner of the house.")
    assert rule("Question: who came? Answer: nobody knows", pair=pair) is None


def test_a_loop_at_the_end_of_a_long_text() -> None:
    words = " ".join(f"word{n}" for n in range(200))
    assert rule(words) is None
    assert rule(f"{words} and so on and so on and so on and so on and so on") == "repeats itself"


def test_scripts_without_spaces() -> None:
    six, five = "\u72d7\u6bcf\u5929\u90fd\u8dd1\u6b65", "\u72d7\u6bcf\u5929\u8dd1\u6b65"
    assert (rule(six, pair=CHINESE), rule(five, pair=CHINESE)) == (None, "too short")
    assert rule(CHINESE.positive.rstrip("\u3002"), pair=CHINESE) == "copy of the positive"
    exchanged = CHINESE.positive.replace("\u732b", "\u72d7")
    assert rule(exchanged, pair=CHINESE) is None
    assert (
        rule(
            "\u0e41\u0e21\u0e27\u0e19\u0e2d\u0e19\u0e2b\u0e25\u0e31\u0e1a",
            pair=Pair("p", "q", "\u0e2a\u0e38\u0e19\u0e31\u0e02"),
        )
        is None
    )  # Thai


@pytest.mark.parametrize(
    ("positive", "just_broken", "just_kept"),
    [
        ("Python", None, "Java"),
        ("machine learning", None, "statistics"),
        ("a red house door", "door", "red door"),
        ("the red door of the house", "red door", "the red door"),
        ("\u7cd6\u5c3f\u75c5", "\u764c", "\u764c\u75c7"),  # a label of three characters; of one, of two
    ],
)
def test_what_is_written_is_too_short_beside_its_positive(
    positive: str, just_broken: str | None, just_kept: str
) -> None:
    pair = Pair("p", "what is it", positive)
    assert rule(just_kept, pair=pair) is None
    if just_broken is not None:
        assert rule(just_broken, pair=pair) == "too short"
        assert rule(just_broken, pair=pair, source="mined") is None


@pytest.mark.parametrize("text", ["Java", "7", "C++", "\u764c", "New York"])
def test_a_document_is_never_too_short(text: str) -> None:
    assert rule(text, source="mined") is None


def test_what_is_kept_as_it_came_may_be_near_but_not_the_same() -> None:
    pair = Pair("p", "senior engineer", "Senior Software Engineer")
    given = [Candidate("p", 4, text, "mined", "m") for text in ("Senior Software Engineer II", "senior  ENGINEER", "b")]
    assert [is_same_text(c, pair, ["B"]) for c in given] == [
        None,
        ("copy of the query", 1.0),
        ("copy of another candidate", 1.0),
    ]
    assert broken_rule(given[0], pair, []) is not None


def test_words_by_hand() -> None:
    assert words_in("cats sleep") == 2
    assert words_in("") == 0
    assert words_in("\u732b\u7761\u89c9 DNA") == 2.5
    assert words_in("https://example.org/" + "a" * 500) == 1
    assert words_in("\ud55c\uad6d\uc5b4 \ubb38\uc7a5") == 2  # Korean has spaces


def test_length_by_hand() -> None:
    assert length_against("a b c d e f", "a b c", 10) == pytest.approx(0.6931, abs=1e-4)
    assert length_against("a b c", "a b c d e f", 10) == pytest.approx(-0.6931, abs=1e-4)
    # Labels of one to three words are as long as each other.
    assert length_against("a", "a b c", 10) == length_against("a b", "a", 10) == 0
    assert length_against("a " * 50, "a " * 20, 20) == 0
    assert length_against("", "", 20) == 0
    assert length_against("\u732b" * 16, "\u732b" * 8, 20) == pytest.approx(0.6931, abs=1e-4)
    assert length_against("\u732b" * 8, "cats sleep at night", 20) == 0


ADVERSARIES = (
    "a", "a ", "ab ", "a!", "!", "passage ", 'passage: ', '"grade_', "_", "x:", "ab-ab ", "Query", "abc " * 4 + "x",
    "a passage:", "no no no no no, ", "\u732b", "word\n", "1 ",
)  # fmt: skip


@pytest.mark.parametrize("piece", ADVERSARIES)
def test_no_text_takes_long(piece: str) -> None:
    text = "a" + piece * (100_000 // len(piece))
    start = time.process_time()
    LOOP.search(text)
    LABEL_ECHOES.search(text)
    assert time.process_time() - start < 10  # about 0.15 s at worst; what grows faster than the text takes minutes
    start = time.process_time()
    rule(text, text + "b", "b" + text)
    assert time.process_time() - start < 10


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_any_text_has_an_answer(text: str, positive: str, earlier: list[str]) -> None:
    broken = broken_rule(Candidate("p", 1, text, "llm", "m"), Pair("p", "a query", positive), earlier)
    assert broken is None or 0 <= broken[1] <= 4
    if text in earlier or text == positive:
        assert broken is not None


letters = st.text("abc \u732b", max_size=40)


@settings(max_examples=200)
@given(letters, st.integers(0, 40), st.text("abc ", max_size=4))
def test_the_bound_by_subsequences_changes_nothing(text: str, place: int, more: str) -> None:
    """Against the rule without it: the share of matching characters, where one text has all words of the other."""
    for other in (text[:place] + more + text[place:], text[:place] + text[place + len(more) :]):
        left, right = folded(text), folded(other)
        words, others = Counter(WORD.findall(left)), Counter(WORD.findall(right))
        share = 1.0 if left == right else round(SequenceMatcher(None, left, right, autojunk=False).ratio(), 4)
        is_copy = left == right or ((words <= others or others <= words) and share >= 0.9)
        assert likeness(text, other) == (share if is_copy else None)
