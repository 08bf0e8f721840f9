"""Format texts for prompts: on one line, shortened, with the user's domain and examples."""

from multigrain.config import SynthesisSection
from multigrain.records import encodable
from multigrain.synthesis.prompts import packaged_examples

FEW_WORDS, MANY_WORDS = 30, 250
"""Words of a passage shown to a small model, and to a large one: contexts are short, and prompts cost money."""


def one_line(text: str) -> str:
    r"""Return the text on one line, without null characters; lone surrogates become question marks.

    >>> one_line(" two\nlines ")
    'two lines'
    """
    return " ".join(encodable(text).replace("\0", " ").split())


def shortened(text: str, words: int = FEW_WORDS) -> str:
    """Return the first words of the text, on one line."""
    return " ".join(one_line(text).split()[:words])


def domain(section: SynthesisSection) -> str:
    """Return a line that names the domain, or an empty text."""
    return f"The texts are about: {one_line(section.domain)}\n" if section.domain else ""


def examples(section: SynthesisSection) -> str:
    """Return the user's own examples for a chat message, or an empty text."""
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
    """Return the examples that a small model is shown for a grade: the user's own, else the packaged ones."""
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
    """Return the language of the passages in words, or `otherwise` if none is configured."""
    return section.language or otherwise


def query_language(section: SynthesisSection, otherwise: str) -> str:
    """Return the language of the queries in words, or `otherwise` if none is configured."""
    return section.query_language or section.language or otherwise
