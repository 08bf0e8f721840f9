import pytest

from multigrain.llm.dialect import Dialect


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (Dialect(), '{"rung": "json_schema", "renamed": [], "thinks": null}'),
        (
            Dialect("text", (("max_tokens", "max_completion_tokens"), ("seed", None)), is_reasoning_model=True),
            '{"rung": "text", "renamed": [["max_tokens", "max_completion_tokens"], ["seed", null]], "thinks": true}',
        ),
    ],
)
def test_the_words_of_stores_stay(dialect: Dialect, text: str) -> None:
    """Stores of earlier versions hold these texts."""
    assert dialect.to_json() == text
    assert Dialect.from_json(text) == dialect


def test_a_store_from_before_reasoning_was_probed_is_read() -> None:
    assert Dialect.from_json('{"rung": "text", "renamed": []}') == Dialect("text")
