"""Lists of training pairs: every format says the same, and mistakes are named where they are."""

import json

import pytest

from likeness.errors import UserError
from likeness.train.pairs import read_pairs

ENTRY = {"video_path": "a.mp4", "caption": "A man nods.", "image_path": "b.png@@c.png"}
FULL = {**ENTRY, "mask_path": "m.png", "kinds": "face@@background", "faces_path": "f.safetensors"}


def write(folder, entries, kind):
    path = folder / f"pairs.{kind}"
    if kind == "json":
        path.write_text(json.dumps(entries))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    else:
        import pyarrow
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(entries), path)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_formats_agree(tmp_path, kind):
    optional = ("mask_path", "kinds", "faces_path")
    plain, full = read_pairs([write(tmp_path, [{**ENTRY, **dict.fromkeys(optional)}, FULL], kind)])
    assert plain.video == full.video == tmp_path / "a.mp4"
    assert plain.caption == "A man nods."
    assert plain.references == (tmp_path / "b.png", tmp_path / "c.png")
    assert (plain.mask, plain.kinds, plain.faces) == (None, ("face", "face"), None)
    assert (full.mask, full.kinds, full.faces) == (
        tmp_path / "m.png",
        ("face", "background"),
        tmp_path / "f.safetensors",
    )
    assert f"pairs.{kind}" in full.source and "2" in full.source


def test_absolute_paths_stay(tmp_path):
    (pair,) = read_pairs([write(tmp_path, [{**ENTRY, "video_path": "/films/a.mp4"}], "json")])
    assert str(pair.video) == "/films/a.mp4"


def test_the_folder_layout(tmp_path):
    for name in ("videos/b.mp4", "videos/a.mp4", "images/a.png", "images/b.jpg", "masks/b.mp4", "videos/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "labels").mkdir()
    for stem in "ab":
        (tmp_path / f"labels/{stem}.txt").write_text(f"Clip {stem}.\n")
    first, second = read_pairs([tmp_path])
    assert (first.video.name, first.caption, first.references, first.mask) == (
        "a.mp4", "Clip a.", (tmp_path / "images/a.png",), None,
    )  # fmt: skip
    assert second.mask == tmp_path / "masks/b.mp4"
    (tmp_path / "labels/b.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"videos/b\.mp4: caption is"):
        read_pairs([tmp_path])


def test_a_folder_with_a_list_and_several_sources(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps([ENTRY]))
    assert len(read_pairs([tmp_path, write(tmp_path, [ENTRY, ENTRY], "jsonl")])) == 3


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"caption": "x", "image_path": "b.png"}, "entry 2: video_path is missing"),
        ({**ENTRY, "caption": "  "}, "entry 2: caption is '  '"),
        ({**ENTRY, "caption": None}, "entry 2: caption is None"),
        ({**ENTRY, "image_path": "b.png@@"}, "entry 2: image_path"),
        ({**ENTRY, "image_path": 3}, "entry 2: image_path is 3"),
        ({**ENTRY, "kinds": "face"}, "1 kinds for 2 references"),
        ({**ENTRY, "kinds": "face@@dog"}, "'dog' is not known"),
        ({**ENTRY, "mask_path": 5}, "entry 2: mask_path is 5"),
        ("text", "entry 2: 'text' stands where a table"),
    ],
)
def test_mistakes_name_the_entry(tmp_path, entry, words):
    with pytest.raises(UserError) as error:
        read_pairs([write(tmp_path, [ENTRY, entry], "json")])
    assert words in str(error.value) and "pairs.json" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{}", "no list"),
        ("a.json", "[{", "not JSON"),
        ("a.json", "[]", "no pairs"),
        ("a.jsonl", '{"a": 1}\n{', "line 1: video_path"),
        ("a.parquet", "PAR1", "cannot be read as Parquet"),
        ("a.csv", "x", "no list of training pairs"),
        ("a.json", b"\xff\xfe[", "not UTF-8"),
    ],
)
def test_broken_lists(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_pairs([path])
    assert words in str(error.value)


def test_missing_sources(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_pairs([tmp_path / "none.json"])
    with pytest.raises(UserError, match="neither metadata"):
        read_pairs([tmp_path])
