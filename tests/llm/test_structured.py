import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer
from multigrain.llm.structured import read_object, schema_of
from multigrain.synthesis.parse import all_grades_reader, answer_model, per_grade_reader

READ = all_grades_reader((1, 2))


def test_the_schema_is_what_strict_servers_take() -> None:
    """OpenAI's rules: every field required, nothing else allowed, and only the keywords that it knows."""
    schema = json.loads(schema_of(answer_model((1, 4))))
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["grade_1", "grade_4"]
    assert set(schema) == {"type", "properties", "required", "additionalProperties"}
    assert set(schema["properties"]["grade_4"]) == {"type", "description"}
    assert "looks like the right answer" in schema["properties"]["grade_4"]["description"]


@pytest.mark.parametrize(
    "text",
    [
        '{"grade_1": "a b", "grade_2": "c"}',
        '{"grade_1": " a\\n b ", "grade_2": "c", "note": "more than was asked for"}',
        'Here you are:\n```json\n{"grade_1": "a  b",\n "grade_2": "c"}\n```\nAnything else?',
        "{'grade_1': 'a b', 'grade_2': 'c',}",
        "```json\n{'grade_1': 'a b', 'grade_2': 'c',}\n```",
        '{"grade_1": "a b" "grade_2": "c"}',
        '{grade_1: "a b", grade_2: "c"}',
    ],
)
def test_what_a_person_would_understand_is_read(text: str) -> None:
    assert READ(Answer(text)) == {1: "a b", 2: "c"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am sorry, I can not do that.", "no JSON object"),
        ("", "no JSON object"),
        ('{"grade_1": "a", "grade_2": "cut at the', "breaks off"),
        ('{"grade_1": "a"}', 'no usable "grade_2"'),
        ('{"grade_1": " ", "grade_2": "b"}', 'no usable "grade_1"'),
        ('{"grade_1": ["a"], "grade_2": "b"}', 'no usable "grade_1"'),
        ('{"grade_1": null, "grade_2": "b"}', 'no usable "grade_1"'),
        ('{"```json1```}', "."),
        ('{"grade_1": "a", "grade_2": "use {} or {x} to format and then the pass', "breaks off"),
        ("{" * 4_000_000, "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ("{" + "[" * 100_000 + "}", "."),
        ('{"a":' * 100_000 + "}" * 100_000, "."),
    ],
)
def test_the_rest_is_an_error(text: str, expected: str) -> None:
    with pytest.raises(LLMReplyError, match=expected):
        READ(Answer(text))


def test_an_expression_is_never_evaluated(tmp_path: Path) -> None:
    canary = f"{tmp_path}/canary"
    for text in (
        f'{{"grade_1": open("{canary}", "w"), "grade_2": "b"}}',
        f'{{"grade_1": __import__("os").mknod("{canary}")}}',
    ):
        with contextlib.suppress(LLMReplyError):
            READ(Answer(text))
    assert not Path(canary).exists()


def test_raw_completions_are_one_line_and_may_be_cut() -> None:
    read = per_grade_reader(3)
    assert read(Answer(" one \n two\0 ", finish_reason="length")) == {3: "one two"}
    with pytest.raises(LLMReplyError, match="wrote nothing"):
        read(Answer(" \n"))


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    for answer in (text, f'{{"grade_1": "{text}", "grade_2": {text}}}', json.dumps({"grade_1": text, "grade_2": "b"})):
        try:
            found = READ(Answer(answer))
        except LLMReplyError:
            continue
        assert all(found[grade] and found[grade] == " ".join(found[grade].split()) for grade in (1, 2))


def test_read_object_gives_the_model() -> None:
    model = answer_model((1,))
    assert read_object(Answer('{"grade_1": "x"}'), model).model_dump() == {"grade_1": "x"}
