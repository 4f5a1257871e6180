"""`likeness world draw`: the files, their determinism, and stopping half-way."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import likeness.world
from likeness.batch import read_batch
from likeness.cli import app
from likeness.evaluate.readers import read_rows
from likeness.media import read_picture, read_video
from likeness.world.folder import is_drawn


def draw(*options):
    return CliRunner().invoke(app, ["world", "draw", *map(str, options)])


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "drawn"
    result = draw("--first", 800_010, "--num", 2, "--clips", 3, "--output", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(folder / "metadata.json")]
    return folder


def test_writes_photographs_clips_and_metadata(drawn):
    people = ("800010", "800011")
    expected = {
        f"{person}/{name}"
        for person in people
        for name in ("reference_0.png", "reference_1.png", "clip_0.mp4", "clip_1.mp4", "clip_2.mp4")
    }
    assert set(files_of(drawn)) == expected | {"metadata.json", "drawing.json"}
    clip = read_video(drawn / "800010/clip_0.mp4")
    assert clip.frames.shape == (17, 64, 64, 3) and clip.fps == 8
    photo = read_picture(drawn / "800010/reference_0.png")
    assert photo.shape == (256, 256, 3) and np.array_equal(photo, likeness.world.folder.draw_photograph(800_010, 0))
    assert is_drawn(drawn / "800010/reference_0.png")


def test_metadata_is_concat_ids_and_reads_as_a_batch(drawn):
    entries = json.loads((drawn / "metadata.json").read_text())
    assert len(entries) == 6 and all(
        set(entry) == {"video_path", "caption", "image_path", "identity"} for entry in entries
    )
    assert all((drawn / entry["video_path"]).is_file() and (drawn / entry["image_path"]).is_file() for entry in entries)
    items = read_batch(drawn / "metadata.json")
    assert [item.prompt for item in items] == [entry["caption"] for entry in entries]
    assert all(path.is_file() for item in items for path in item.references)


def test_metadata_says_who_is_shown(drawn):
    """Clips of one person come with different photographs, which alone would make them different people in an evaluation."""
    items = [row.item for row in read_rows(drawn / "metadata.json")]
    assert [item.group for item in items] == ["800010"] * 3 + ["800011"] * 3
    assert len({item.references for item in items}) == 4


def test_a_stopped_run_goes_on_to_the_same_bytes(drawn, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"
    real, calls = likeness.world.draw, 0

    def stopping(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(likeness.world, "draw", stopping)
    options = ("--first", 800_010, "--num", 2, "--clips", 3, "--output", folder)
    assert draw(*options).exit_code == 130
    assert {name.rsplit("/")[-1] for name in files_of(folder)} == {"reference_0.png", "reference_1.png", "drawing.json"}
    calls = 2  # from here on nothing stops it
    assert draw(*options).exit_code == 0
    assert files_of(folder) == files_of(drawn)
    drawn_again = calls
    assert draw(*options).exit_code == 0
    assert calls == drawn_again, "what is there is not drawn again"


def test_a_folder_grows(tmp_path):
    for first in (800_020, 800_021):
        assert draw("--first", first, "--clips", 1, "--output", tmp_path).exit_code == 0
    entries = json.loads((tmp_path / "metadata.json").read_text())
    assert [entry["video_path"] for entry in entries] == ["800020/clip_0.mp4", "800021/clip_0.mp4"]


def test_two_people_share_a_clip_and_keep_their_photographs(tmp_path):
    assert draw("--first", 800_030, "--num", 2, "--clips", 1, "--people", 2, "--output", tmp_path).exit_code == 0
    (entry,) = json.loads((tmp_path / "metadata.json").read_text())
    assert entry["video_path"] == "800030_800031/clip_0.mp4"
    assert entry["image_path"] == "800030/reference_0.png@@800031/reference_0.png"
    assert entry["identity"] == "800030_800031"
    assert all((tmp_path / name).is_file() for name in (entry["video_path"], *entry["image_path"].split("@@")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num", 0), "0 people"),
        (("--clips", 0), "0 clips"),
        (("--first", -1), "-1"),
        (("--first", 999_999, "--num", 2), "1000000"),
        (("--num", 5, "--people", 2), "--num 4 or 6"),
        (("--people", 4), "from 1 to 3"),
        (("--height", 65), "65"),
        (("--num-frames", 0), "0 frames"),
        (("--num", "many"), "--num"),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, options, words):
    result = draw(*options, "--output", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_mix_into_a_folder(drawn):
    before = files_of(drawn)
    result = draw("--first", 800_010, "--height", 48, "--output", drawn)
    assert result.exit_code == 2 and "other settings" in result.stderr
    assert files_of(drawn) == before


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    result = draw("--output", tmp_path / "file" / "people")
    assert (
        result.exit_code == 2
        and len(result.stderr.strip().splitlines()) == 1
        and str(tmp_path / "file") in result.stderr
    )
