"""Text and JSON from people's files: what is wrong is told with the file and the place."""

import pytest

from likeness.errors import UserError
from likeness.textfile import parse_json, read_text


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_the_mark_that_some_editors_put_first_is_no_part_of_the_text(tmp_path, mark) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Ünïcode\n", encoding=mark)
    assert read_text(path) == "Ünïcode\n"


def test_files_that_are_no_text_are_told_by_name(tmp_path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(UserError, match=r"a\.txt cannot be read: No such file"):
        read_text(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"^The prompt file p is not UTF-8 text \(byte 3\)"):
        read_text(path, "The prompt file p")


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "1" * 5000])
def test_what_is_not_json_is_told_with_its_place(text) -> None:
    """Also what is nested too deeply, and a number too long to convert, which are errors of other kinds."""
    with pytest.raises(UserError, match=r"^a\.jsonl, line 3: not JSON"):
        parse_json(text, "a.jsonl, line 3")
    assert parse_json('{"a": [1]}', "x") == {"a": [1]}
