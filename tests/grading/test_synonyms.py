from collections.abc import Sequence

import pytest

from multigrain.config import GradingSection
from multigrain.grading.grade import Grader
from multigrain.grading.synonyms import exchanged_terms
from multigrain.records import Candidate, Pair

POSITIVE = "Melanoma is treated with antibodies. In this study 40 patients with melanoma were followed for two years."


class Terms:
    """Knows one pair of synonyms; all other texts are half as relevant as the positive."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [0.9 if pair == ("melanoma", "skin cancer") else 1.0 if pair[1] == POSITIVE else 0.5 for pair in pairs]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (POSITIVE.replace("elanoma", "idney failure"), ("melanoma", "midney failure")),
        (POSITIVE.replace("40", "90"), ("40", "90")),
        (POSITIVE + " They did well.", None),  # nothing is exchanged
        (POSITIVE, None),
        ("The museum is open from nine to five, except on public holidays, when it is closed.", None),
    ],
)
def test_what_is_exchanged(text: str, terms: tuple[str, str] | None) -> None:
    assert exchanged_terms(text, POSITIVE) == terms


def test_the_commonest_exchange_counts() -> None:
    text = POSITIVE.replace("elanoma", "alaria").replace("two", "ten")
    assert exchanged_terms(text, POSITIVE) == ("melanoma", "malaria")


def test_a_synonym_is_dropped_and_another_term_is_not() -> None:
    pair = Pair("p", "how is melanoma treated", POSITIVE)
    synonym = POSITIVE.replace("Melanoma", "Skin cancer").replace("melanoma", "skin cancer")
    other = POSITIVE.replace("Melanoma", "Malaria").replace("melanoma", "malaria")
    candidates = [Candidate("p", 4, text, "llm", "m") for text in (synonym, other)]
    graded = Grader({"terms": Terms()}, GradingSection()).grade([(pair, candidates)])
    assert [(d.rule, d.value, d.candidate.text) for d in graded.dropped] == [("synonym", 0.9, synonym)]
    assert [n.text for n in graded.tuples[0].negatives] == [other]
