"""How texts are put into prompts: in one line, cut to what is shown, with what the run's owner says about them."""

from multigrain.config import SynthesisSection
from multigrain.records import encodable
from multigrain.synthesis.prompts import packaged_examples

FEW_WORDS, MANY_WORDS = 30, 250
"""Of a passage that are shown to a small model, and to a large one: contexts are short, and prompts are paid for."""


def one_line(text: str) -> str:
    """The text in one line, without what UTF-8 cannot hold and what no reader sees."""
    return " ".join(encodable(text).replace("\0", " ").split())


def shortened(text: str, words: int = FEW_WORDS) -> str:
    """The first words of the text, in one line."""
    return " ".join(one_line(text).split()[:words])


def domain(section: SynthesisSection) -> str:
    """A line about the field, or nothing."""
    return f"The texts are about: {one_line(section.domain)}\n" if section.domain else ""


def examples(section: SynthesisSection) -> str:
    """The user's own examples, for a chat message; or nothing."""
    blocks = []
    for example in section.examples:
        lines = [f"Query: {one_line(example.query)}", f"Positive passage: {shortened(example.positive, MANY_WORDS)}"]
        lines += [
            f"grade_{grade}: {one_line(passage)}"
            for grade in (1, 2, 3, 4)
            if (passage := getattr(example, f"grade_{grade}"))
        ]
        blocks.append("\n".join(lines))
    return "\nExamples of how it should look:\n" + "\n\n".join(blocks) + "\n" if blocks else ""


def shots(section: SynthesisSection, grade: int) -> list[dict[str, str]]:
    """What a small model is shown for a grade: the user's own examples of it, else the packaged ones."""
    own = [
        {"query": one_line(example.query), "positive": shortened(example.positive), "passage": one_line(passage)}
        for example in section.examples
        if (passage := getattr(example, f"grade_{grade}"))
    ]
    packaged = [
        {"query": example["query"], "positive": example["positive"], "passage": example[f"grade_{grade}"]}
        for example in packaged_examples()
    ]
    return own or packaged


def passage_language(section: SynthesisSection, otherwise: str) -> str:
    """The language that passages are written in, in words."""
    return section.language or otherwise


def query_language(section: SynthesisSection, otherwise: str) -> str:
    """The language that queries are written in, in words."""
    return section.query_language or section.language or otherwise
