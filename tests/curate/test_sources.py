"""Inputs as people name them: folders, patterns, lists of every kind; and mistakes, told with file and entry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from likeness.curate.sources import read_sources
from likeness.curate.types import ClipSource
from likeness.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b.mp4 with a caption, a/c.MKV, hidden and other files; nothing in them is read."""
    (tmp_path / "a").mkdir()
    for name in ("b.mp4", "a/c.MKV", ".d.mp4", "a/._e.mp4", "notes.txt", "f.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.txt").write_text("A man.\n", encoding="utf-8")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "g.mp4").write_bytes(b"x")
    return tmp_path


def told(clips: list[ClipSource], folder: Path) -> list[tuple[str, str | None]]:
    return [(os.path.relpath(clip.path, folder), clip.caption) for clip in clips]


def test_a_folder_is_every_video_below_it(folder: Path) -> None:
    expected = [("a/c.MKV", None), ("b.mp4", "A man.")]
    assert told(read_sources([folder]), folder) == expected
    assert all(os.path.isabs(clip.path) for clip in read_sources([folder]))
    assert told(read_sources([str(folder / "**" / "*")]), folder) == expected
    assert told(read_sources([folder / "b.mp4", folder, folder / "b.mp4"]), folder) == expected[::-1], "each clip once"


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    assert len(read_sources([folder])) == 2


def test_captions_lie_in_labels_as_well(tmp_path: Path) -> None:
    for name in ("videos", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "videos" / "x.mp4").touch()
    (tmp_path / "labels" / "x.txt").write_text("\ufeffA girl.", encoding="utf-8")
    assert [clip.caption for clip in read_sources([tmp_path])] == ["A girl."]


ROWS = [
    {"video_path": "a.mp4", "caption": "A man, talking."},
    {"video_path": "sub/b.mp4"},
    {"video_path": "long.mp4", "caption": "Zwei Mädchen", "start_s": 1.5, "end_s": 4},
]


def write_list(path: Path) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{"other": 1} | row for row in ROWS], pa.schema([
            ("video_path", pa.string()), ("caption", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()),
            ("other", pa.int64()),
        ])), path)  # fmt: skip
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        rows = [["video_path", "caption", "start_s", "end_s"]]
        rows += [[f'"{row.get(name, "")}"' for name in rows[0]] for row in ROWS]
        path.write_text("\n".join(tab.join(row) for row in rows), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_lists_of_every_kind_say_the_same(suffix: str, tmp_path: Path) -> None:
    clips = read_sources([write_list(tmp_path / f"list{suffix}")])
    assert told(clips, tmp_path) == [("a.mp4", "A man, talking."), ("sub/b.mp4", None), ("long.mp4", "Zwei Mädchen")]
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0.0, None), (0.0, None), (1.5, 4.0)]
    assert clips[1].origin.startswith(f"list{suffix}, ") and clips[1].origin.endswith(" 2")


def test_a_list_may_hold_paths_alone_and_files_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('["a.mp4", "/elsewhere/b.mp4"]')
    assert [clip.path for clip in read_sources([tmp_path / "list.json"])] == [
        str(tmp_path / "a.mp4"),
        "/elsewhere/b.mp4",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.json", "{", "not JSON"),
        ("l.json", "{}", "holds no list"),
        ("l.json", "[]", "no clips"),
        ("l.json", '[{"video_path": "a.mp4"}, {"caption": "b"}]', "entry 2: video_path is missing"),
        ("l.json", '[{"video_path": 3}]', "entry 1: video_path is 3"),
        ("l.json", '["a.mp4", 3]', "entry 2: 3 stands where"),
        ("l.json", '[{"path": "a.mp4", "caption": ["b"]}]', "caption is"),
        ("l.json", '[{"path": "a.mp4", "start_s": "soon"}]', "start_s is 'soon'"),
        ("l.json", '[{"path": "a.mp4", "start_s": -1}]', "0 or more"),
        ("l.json", '[{"path": "a.mp4", "start_s": 4, "end_s": 2}]', "not after"),
        ("l.jsonl", '{"path": "a.mp4"}\n{"path": \n', "l.jsonl, line 2: not JSON"),
        ("l.csv", "a,b\nc,d\n", "no column video_path"),
        ("l.csv", "", "no column video_path"),
        ("l.csv", "path,caption\na.mp4,A man, talking\n", "l.csv, line 2: more cells"),
        ("l.csv", 'path,caption\na.mp4,"A man\n', "not CSV"),
        ("l.parquet", "PAR1", "cannot be read as Parquet"),
        ("l.json", b"[\xff]", "not UTF-8"),
        ("l.docx", "x", "neither a video nor a list"),
        ("videos", None, "no clips"),
    ],
)
def test_mistakes_are_told_by_file_and_entry(
    name: str, content: str | bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_sources([path])
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "no file or folder"), ("*.mp4", "No file matches"), ("x" * 5000, "no path")]
)
def test_an_input_that_is_not_there_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_sources([str(tmp_path / name)])
    with pytest.raises(UserError, match="no input"):
        read_sources([])


def test_a_key_names_what_is_measured() -> None:
    clip = ClipSource(path="/a.mp4", caption="A man.", origin="one")
    assert clip.key == ClipSource(path="/a.mp4", caption="A man.", origin="two").key and len(clip.key) == 16
    others = [
        ClipSource(path="/b.mp4", caption="A man."),
        ClipSource(path="/a.mp4", caption=None),
        ClipSource(path="/a.mp4", caption="A man.", start_s=1.0),
        ClipSource(path="/a.mp4", caption="A man.", end_s=1.0),
    ]
    assert len({clip.key, *(other.key for other in others)}) == 5
