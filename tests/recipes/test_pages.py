"""Tables go between the marks of a page and leave the rest of it."""

from likeness.recipes.pages import table, write_between

_MARKS = ("<!-- begin -->", "<!-- end -->")


def test_a_table_has_the_columns_of_its_last_row() -> None:
    lines = table({"base": {"a": [0.1, 0.0, 0.2]}, "more": {"a": [1.0, 0.9, 1.1], "b": [-0.5, -1.0, 0.0]}})
    assert lines[0] == "| | a | b |" and lines[1] == "|---|---|---|"
    assert lines[2:] == [
        "| base | 0.100 [0.000, 0.200] |  |",
        "| more | 1.000 [0.900, 1.100] | -0.500 [-1.000, 0.000] |",
    ]


def test_prose_stays(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        write_between(page, _MARKS, "new\n")
        assert page.read_text() == "before\n<!-- begin -->\nnew\n<!-- end -->\nafter\n"


def test_a_page_without_marks_gets_them(tmp_path) -> None:
    for text in ("", "prose\n"):
        page = tmp_path / "page.md"
        page.write_text(text)
        write_between(page, _MARKS, "new\n")
        write_between(page, _MARKS, "newer\n")
        assert page.read_text() == f"{text}<!-- begin -->\nnewer\n<!-- end -->\n"
