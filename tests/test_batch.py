"""Batch files as the field writes them, and the lines that must be refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.batch import parse_line, read_batch
from likeness.errors import UserError


def test_text_forms_are_told_apart_by_what_is_a_picture(tmp_path):
    (tmp_path / "ann").write_bytes(b"a picture without a suffix")
    (tmp_path / "list.txt").write_text(
        "a woman waves@@ann.jpg\n\n"
        "  two people talk @@ ann.jpg @@ bob.PNG  \n"
        "07@@a man runs@@bob.webp@@bob2.webp\n"
        "a dog barks@@ann\n",
        encoding="utf-8-sig",
    )
    items = read_batch(tmp_path / "list.txt")
    assert [(item.key, item.prompt, [p.name for p in item.references]) for item in items] == [
        (None, "a woman waves", ["ann.jpg"]),
        (None, "two people talk", ["ann.jpg", "bob.PNG"]),
        ("07", "a man runs", ["bob.webp", "bob2.webp"]),
        (None, "a dog barks", ["ann"]),
    ]
    assert [item.where for item in items] == [f"list.txt line {n}" for n in (1, 3, 4, 5)]


def test_relative_paths_are_beside_the_batch_file_else_in_the_current_folder(tmp_path, monkeypatch):
    lists, here = tmp_path / "lists", tmp_path / "here"
    lists.mkdir(), here.mkdir()
    (lists / "both.png").touch(), (here / "both.png").touch(), (here / "only_here.png").touch()
    (lists / "b.txt").write_text("p@@both.png\np@@only_here.png\np@@nowhere.png\np@@/far/away.png")
    monkeypatch.chdir(here)
    found = [item.references[0] for item in read_batch(lists / "b.txt")]
    assert found == [lists / "both.png", Path("only_here.png"), lists / "nowhere.png", Path("/far/away.png")]


def test_concat_id_and_opens2v_json(tmp_path):
    (tmp_path / "concat_id.json").write_text(
        json.dumps([{"video_path": "v.mp4", "caption": "they dance", "image_path": "a.png@@b.png"}])
    )
    (tmp_path / "opens2v.json").write_text(
        json.dumps({"face_1": {"img_paths": ["a.png"], "prompt": "she sings", "class_label": ["x"]}})
    )
    (item,) = read_batch(tmp_path / "concat_id.json")
    assert (item.key, item.prompt, item.references) == (None, "they dance", (tmp_path / "a.png", tmp_path / "b.png"))
    (item,) = read_batch(tmp_path / "opens2v.json")
    assert (item.key, item.prompt, item.references) == ("face_1", "she sings", (tmp_path / "a.png",))


def test_json_lines_may_carry_key_and_seed_and_separators_in_the_prompt(tmp_path):
    (tmp_path / "b.jsonl").write_text(
        '{"key": "k", "prompt": "an @@ sign", "references": ["a.png"], "seed": 7}\n\n{"caption": "c", "image_path": "b.png"}\n'
    )
    first, second = read_batch(tmp_path / "b.jsonl")
    assert (first.key, first.prompt, first.seed) == ("k", "an @@ sign", 7)
    assert (second.prompt, second.seed, second.where) == ("c", None, "b.jsonl line 3")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("only a prompt", "no photograph"),
        ("a prompt@@not_a_picture", "no photograph"),
        ("a.png@@b.png", "no prompt"),
        ("a.png@@a prompt", "no photograph at the end"),
        ("a.png@@a prompt@@b.png", "before the text"),
        ("k@@one@@two@@a.png", "3 text fields"),
        ("a woman waves@@photo_without_suffix@@b.png", "cannot tell"),
        ("@@a.png", "the prompt is empty"),
        ("k@@@@a.png", "the prompt is empty"),
        ("a prompt@@a.png@@", "no photograph at the end"),
    ],
)
def test_ambiguous_lines_are_refused_with_their_number(tmp_path, line, reason):
    (tmp_path / "b.txt").write_text(f"fine@@a.png\n{line}\n")
    with pytest.raises(UserError, match=reason) as caught:
        read_batch(tmp_path / "b.txt")
    assert str(caught.value).startswith("b.txt line 2: ")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.txt", b"", "lists nothing"),
        ("b.txt", b"\xff\xfe\x00\x01", "not a UTF-8"),
        ("b.json", b"{", "b.json: not JSON"),
        ("b.json", b"3", "neither a list"),
        ("b.json", b"[]", "lists nothing"),
        ("b.json", b"[3]", "entry 1: a JSON object"),
        ("b.json", b'[{"caption": "", "image_path": "a.png"}]', "entry 1: no text"),
        ("b.json", b'[{"caption": "c"}]', "entry 1: no photographs"),
        ("b.json", b'{"k": {"prompt": "p", "img_paths": []}}', "entry 'k': no photographs"),
        ("b.jsonl", b'{"prompt": "p", "img_paths": ["a.png"]}\n{', "line 2: not JSON"),
        ("b.jsonl", b'{"prompt": "p", "img_paths": ["a.png"], "seed": "x"}', "whole number"),
        ("b.txt", b"k@@p@@a.png\nk@@q@@a.png", "line 2: the key 'k' was used before at b.txt line 1"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_batch(tmp_path / name)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no batch file"):
        read_batch(tmp_path / "none.txt")
    with pytest.raises(UserError, match="is a folder"):
        read_batch(tmp_path)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="@/\\", exclude_categories=("C", "Z")), min_size=1, max_size=12
)


@given(
    st.none() | WORDS.map("k".__add__), st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=4)
)
def test_every_well_formed_line_reads_back(tmp_path_factory, key, prompt, photos):
    # a trailing dot-word such as "x.png" would be a picture by the rule, so prompts end in a plain word here
    prompt, photos = " ".join([*prompt, "walks"]), [photo + ".png" for photo in photos]
    key = None if key is None else key + "_"
    line = "@@".join([*([] if key is None else [key]), prompt, *photos])
    item = parse_line(line, "line", Path("folder"))
    assert (item.key, item.prompt) == (key, prompt)
    assert item.references == tuple(Path("folder") / photo for photo in photos)
