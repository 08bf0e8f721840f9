"""Tables of the benchmarks in the documentation."""

from pathlib import Path

import pytest
from benchmarks.shared.pages import put_into

PAGE = "# Title\n\n<!-- a: begin -->\n\nold\n\n<!-- end -->\n\nBetween.\n\n<!-- b: begin -->\n\nold\n\n<!-- end -->\n"


def test_a_table_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    put_into(page, "b", "new\n")
    assert page.read_text() == PAGE[: PAGE.rindex("old")] + "new" + PAGE[PAGE.rindex("old") + 3 :]


@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("<!-- a", "<!-- c"),
        PAGE.replace("<!-- end -->", ""),
        PAGE.replace("<!-- end -->", "", 1),  # b's mark and table would go
        PAGE + PAGE,
    ],
)
def test_a_page_without_its_marks_stays_as_it_is(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    with pytest.raises(ValueError, match="wanted once: <!-- a: begin -->"):
        put_into(path, "a", "new")
    assert path.read_text() == page
