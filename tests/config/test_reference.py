"""The reference of the settings is read from the sections; help and the JSON schema have it too."""

import pydoc
from typing import Annotated, Literal

from pydantic import Field

import multigrain
from multigrain.config import Config, Section
from multigrain.config.faults import keys_of
from multigrain.config.reference import settings_of


class Inner(Section):
    """An inner table."""

    one: Annotated[int, Field(ge=1, le=4)] = 2


class Base(Section):
    """A base."""

    early: bool = False
    """Inherited, and
    on two lines."""


class Sample(Base):
    """A section.

    With a second paragraph.
    """

    needed: str = Field(min_length=1)
    """What is needed."""
    choice: Literal["a", "b"] | None = None
    """Which one."""
    rate: float = Field(2e-5, gt=0, lt=1)
    parts: list[Annotated[float, Field(ge=0)]] = Field([0.5, 1.0], min_length=2, max_length=2)
    either: list[str] | bool = False
    table: dict[str, list[int]] = Field({})
    inner: list[Inner] = Field([])
    bare: Inner = Inner(one=3)


def test_a_setting_has_type_default_range_and_meaning() -> None:
    rows = {row.key: (row.kind, row.default, row.allowed, row.meaning) for row in settings_of(Sample, "s.")}
    assert rows == {
        "s.early": ("boolean", "false", "", "Inherited, and on two lines."),
        "s.needed": ("string", None, "not empty", "What is needed."),
        "s.choice": ('"a" or "b"', "none", "", "Which one."),
        "s.rate": ("float", "2e-5", "above 0 to below 1", ""),
        "s.parts": ("list of floats", "[0.5, 1.0]", "exactly 2; each from 0", ""),
        "s.either": ("list of strings or boolean", "false", "", ""),
        "s.table": ("table of lists of integers", "{}", "", ""),
        "s.inner": ("list of tables", "[]", "", "An inner table."),
        "s.inner.one": ("integer", "2", "from 1 to 4", ""),
        "s.bare": ("table", "{ one = 3 }", "", "An inner table."),
        "s.bare.one": ("integer", "2", "from 1 to 4", ""),
    }


def test_the_reference_has_every_key_of_a_run_and_its_meaning() -> None:
    rows = list(settings_of(Config))
    assert [row.key for row in rows] == keys_of(Config)
    assert [row.key for row in rows if not row.meaning] == []


def test_help_lists_all_settings() -> None:
    text = pydoc.plain(pydoc.render_doc(multigrain.Config))
    assert "All settings of a run." in text
    for row in settings_of(Config):
        assert f"     {row.key}\n" in text, row.key


def test_the_json_schema_describes_each_setting() -> None:
    schema = Sample.model_json_schema()
    assert schema["description"] == "A section.\n\nWith a second paragraph."
    assert schema["properties"]["needed"]["description"] == "What is needed."
    assert schema["properties"]["early"]["description"] == "Inherited, and on two lines."
    assert schema["$defs"]["Inner"]["description"] == "An inner table."
    assert "description" not in schema["properties"]["rate"]
