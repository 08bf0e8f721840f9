import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import load_config
from multigrain.errors import ConfigError
from multigrain.pipeline.verbs import synthesize
from multigrain.synthesis.prompts import FOLDER, PATTERNS, Prompt, check_folder, load_prompt, names_in

ANY_TEXT = st.text(st.sampled_from("ab${}\n\\ #%é"), max_size=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "prompts"
    path.mkdir()
    return path


def own(folder: Path, name: str, text: str) -> Prompt:
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    check_folder(str(folder))
    return load_prompt(name, str(folder))


def fault_of(folder: Path, name: str, text: str) -> str:
    """What is said about the file; whoever loads it hears the same as whoever checks the folder."""
    path = folder / f"{name}.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        check_folder(str(folder))
    with pytest.raises(ConfigError, match=re.escape(str(caught.value))):
        load_prompt(name, str(folder))
    (fault,) = caught.value.faults
    assert str(caught.value) == f"{path}: {fault}"
    return fault


def test_fill_puts_values_in_the_place_of_names() -> None:
    prompt = Prompt("judge", "$query costs $$5, says ${passage}s")
    assert prompt.fill(query="Tea", passage="nobody") == "Tea costs $5, says nobodys"


def test_fill_takes_more_values_than_a_file_uses() -> None:
    """A user's file may leave names out."""
    assert Prompt("judge", "$query?").fill(query="Tea", passage="x", domain="y") == "Tea?"


def test_a_pattern_shows_the_shots_and_stops_where_the_model_goes_on() -> None:
    prompt = Prompt("grade_1", "Query: $query\nOff: $passage\n---")
    shots = [{"query": "a", "passage": "b"}, {"query": "c", "passage": "d"}]
    assert prompt.pattern(shots, query="e") == "Query: a\nOff: b\n---\n\nQuery: c\nOff: d\n---\n\nQuery: e\nOff:"
    assert prompt.pattern([], query="e") == "Query: e\nOff:"


@pytest.mark.parametrize("text", ["Query: $query\nOff: ${passage}", "$query at $$9, $$passage\nOff: $passage"])
def test_a_pattern_knows_the_name_however_it_is_written(text: str, folder: Path) -> None:
    prompt = own(folder, "grade_1", text)
    filled = prompt.fill(query="e", passage="END")
    assert prompt.pattern([], query="e") == filled.removesuffix(" END")


def test_the_version_is_that_of_the_text_and_not_of_the_remarks(folder: Path) -> None:
    text = "Query: $query\nOff: $passage"
    first = own(folder, "grade_1", f"# one\n\n#two\n{text}\n\n")
    assert (first.text, first.version) == (text, Prompt("grade_1", text).version)
    assert re.fullmatch(r"grade_1@[0-9a-f]{8}", first.version)
    assert own(folder, "grade_1", text.replace("Off", "of")).version != first.version
    assert own(folder, "grade_1", f"{text}\n# not at the top").version != first.version


def test_a_mark_of_the_editor_before_the_remark_is_not_sent(folder: Path) -> None:
    """Some editors begin UTF-8 with a byte order mark."""
    assert own(folder, "grade_1", "\ufeff# a remark\n$query $passage").text == "$query $passage"


def test_a_folder_replaces_one_prompt_and_no_other(folder: Path) -> None:
    assert own(folder, "judge", "$query: $passage").text == "$query: $passage"
    for name in ("grade_1", "grade_4", "all_grades", "query_question"):
        assert load_prompt(name, str(folder)) == load_prompt(name)
    assert load_prompt("judge").text != "$query: $passage"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_every_packaged_prompt_would_pass_as_a_users_own(name: str, folder: Path) -> None:
    assert own(folder, name, (FOLDER / f"{name}.txt").read_text(encoding="utf-8")) == load_prompt(name)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_may_show_the_query_the_positive_or_both(name: str, folder: Path) -> None:
    assert names_in(own(folder, name, "$query $positive $passage").text) == {"query", "positive", "passage"}


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("judge", "$query $pasage $text", "found $pasage, $text; wanted only $domain, $passage, $query"),
        ("grade_4", "$query -> $passage", "found $query; wanted only $passage, $term"),
        ("judge", "$Query $passage", "found $Query; wanted only"),
        ("judge", "$query costs 5 $: $passage", "a dollar sign stands alone; write $$ for a dollar sign"),
        ("judge", "$5 $query $passage", "a dollar sign stands alone; write $$ for a dollar sign"),
        ("judge", "", "is empty"),
        ("judge", "# a remark\n\n  \n", "is empty"),
        ("grade_1", "Query: $query\nOff:", "found no $passage"),
        ("query_question", "Ask something.", "found no $passage"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(name: str, text: str, fault: str, folder: Path) -> None:
    assert fault_of(folder, name, text).startswith(fault)


def test_a_misspelt_file_name_is_told_with_those_that_are_known(folder: Path) -> None:
    (folder / "grade4.txt").write_text("$term $passage")
    with pytest.raises(ConfigError, match=r"grade4\.txt: no prompt has this name; known: .*grade_3, grade_4, judge"):
        check_folder(str(folder))


def test_other_files_in_the_folder_do_no_harm(folder: Path) -> None:
    (folder / "README.md").write_text("$nothing of mine")
    check_folder(str(folder))


def test_a_file_that_is_no_text_is_told(folder: Path) -> None:
    (folder / "judge.txt").write_bytes(b"$query \xff $passage")
    with pytest.raises(ConfigError, match=r"judge\.txt: cannot be read: .*utf-8"):
        check_folder(str(folder))


def test_a_missing_folder_is_told_before_anything_is_done(run_toml: Path) -> None:
    config = load_config(run_toml, ["synthesis.prompts='no/such/folder'"])
    with pytest.raises(ConfigError, match='^synthesis.prompts: found "no/such/folder"; wanted a folder with prompts'):
        synthesize(config)
    assert not config.folder.exists()


@given(query=ANY_TEXT, passage=ANY_TEXT)
def test_values_come_through_as_they_are(query: str, passage: str) -> None:
    assert Prompt("judge", "<$query>${passage}<").fill(query=query, passage=passage) == f"<{query}>{passage}<"
    pattern = Prompt("grade_1", "<$query> $passage")
    shown = pattern.pattern([{"query": passage, "passage": query}], query=query)
    assert shown == f"<{passage}> {query}\n\n<{query}>"


@given(query=ANY_TEXT, positive=ANY_TEXT)
def test_packaged_patterns_end_open_whatever_the_texts(query: str, positive: str) -> None:
    for name in PATTERNS:
        assert load_prompt(name).pattern([], query=query, positive=positive).endswith((": ", ":"))
