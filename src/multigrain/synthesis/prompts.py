"""How a language model is asked for negatives. A changed prompt gets a new version name.

Two styles, because the ability to follow a request is a property of the model:

per-grade    few-shot raw completion, one grade a request. Small models continue a pattern far better than
             they obey an instruction.
all-grades   one chat message that describes all grades and asks for one JSON object; for large models.
"""

from multigrain.records import Pair, encodable

PER_GRADE_VERSION = "per-grade-1"
ALL_GRADES_VERSION = "all-grades-1"

STOP = ("\n",)
MAX_TOKENS_PER_GRADE = 48
MAX_TOKENS_ALL_GRADES = 700
POSITIVE_WORDS = 30
"""As much of the positive as is shown: a small model's context is short, and prompts are paid for."""

FIRST_GRADE_WITH_POSITIVE = 3

LABELS = {1: "Off-topic passage", 2: "Same-field passage", 3: "Related passage", 4: "Near-miss passage"}

MEANINGS = {
    1: "about another topic altogether",
    2: "from the same field, but about something else",
    3: "about the topic of the query, but it does not answer it",
    4: "looks like the right answer, but a decisive detail is wrong or different, so that it does not answer the query",
}

# (query, positive, passages of grades 1 to 4); different fields, so that none of them sets the topic.
EXAMPLES: tuple[tuple[str, str, dict[int, str]], ...] = (
    (
        "Return the inverse of a square matrix.",
        "Parameters: x, a matrix that is not singular. The result times x is the identity.",
        {
            1: "The museum is open from nine to five, except on public holidays.",
            2: "Draws the values of two arrays against each other as points in a plot.",
            3: "Parameters: x, a matrix. The result is the sum of the numbers on its diagonal.",
            4: "Parameters: x, a matrix that is not singular. The result is the logarithm of its determinant.",
        },
    ),
    (
        "How is iron deficiency treated?",
        "Tablets are taken daily for three months, if possible on an empty stomach.",
        {
            1: "Opens a network connection and sends the bytes that are waiting in the buffer.",
            2: "A sprained ankle should be cooled and kept raised for the first two days.",
            3: "Tiredness and pale skin are its first signs. It is common in young women.",
            4: "Tablets of vitamin D are taken once a week for three months, with a meal.",
        },
    ),
    (
        "Sort the lines of a text file.",
        "The file is read as a whole. With reverse=True the last line comes first.",
        {
            1: "The heart pumps blood through the lungs, where it takes up oxygen.",
            2: "Downloads a web page and follows the links on it up to a given depth.",
            3: "The file is read as a whole. Empty lines are counted as well.",
            4: "The file is read as a whole. With reverse=True the last column comes first.",
        },
    ),
)


def per_grade_prompt(pair: Pair, grade: int) -> str:
    """A pattern of examples that ends where the model has to go on.

    The easy grades do not show the positive, a small model would stay too close to it; where it is shown,
    one example fewer keeps the prompt as short.
    """
    label, show = LABELS[grade], grade >= FIRST_GRADE_WITH_POSITIVE
    examples = EXAMPLES[1:] if show else EXAMPLES

    def block(query: str, positive: str) -> str:
        return f"Query: {query}\n" + (f"Answer: {positive}\n" if show else "") + f"{label}:"

    shots = "".join(f"{block(query, positive)} {passages[grade]}\n\n" for query, positive, passages in examples)
    return shots + block(one_line(pair.query), _shortened(pair.positive))


def all_grades_prompt(pair: Pair, grades: list[int]) -> str:
    """One message that asks for one passage of each grade, as a JSON object."""
    wanted = "\n".join(f'"grade_{grade}": a passage {MEANINGS[grade]}' for grade in grades)
    keys = ", ".join(f'"grade_{grade}": "..."' for grade in grades)
    return (
        "You write training data for a search engine. Below are a query and the passage that answers it. "
        f"Write {len(grades)} other passages that do NOT answer the query, as similar to it as described:\n"
        f"{wanted}\n"
        "Write each passage in the language, style and length of the positive passage. "
        "Do not say that a passage is wrong or off-topic.\n\n"
        f"Query: {one_line(pair.query)}\nPositive passage: {_shortened(pair.positive)}\n\n"
        f"Answer with one JSON object and nothing else: {{{keys}}}"
    )


def one_line(text: str) -> str:
    """The text in one line, without what UTF-8 cannot hold and what no reader sees."""
    return " ".join(encodable(text).replace("\0", " ").split())


def _shortened(text: str) -> str:
    return " ".join(one_line(text).split()[:POSITIVE_WORDS])
