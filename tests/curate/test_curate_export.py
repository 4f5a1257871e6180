"""Pairs of a dataset as lists that the trainer reads: what is in them, where they point, what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import paired_dataset
from planted import video

from likeness.curate.export import export_pairs
from likeness.errors import UserError
from likeness.media import read_video
from likeness.train.pairs import read_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of `paired_dataset`, where the long video is there."""
    frames = np.full((12, 64, 64, 3), 90, np.uint8)
    frames[:, :, :, 0] = np.arange(12)[:, None, None] * 20
    video(tmp_path / "long.mp4", frames)
    return paired_dataset(tmp_path / "set")


def test_the_trainer_reads_what_is_exported(folder: Path, tmp_path: Path) -> None:
    exported = export_pairs(folder, caption="a person")
    lists = folder / "export"
    assert {path: 4 if path.stem != "tradeoff" else 0 for path in exported.lists} == dict(exported.lists)
    assert [path.name for path in exported.lists] == ["cross.json", "pretraining.json", "tradeoff.json"]
    one, two, other, shot = read_pairs([lists / "cross.json"])
    own = read_pairs([lists / "pretraining.json"])
    assert one.video == tmp_path / "a.mp4" and one.caption == 'A woman: "yes" & ü'
    assert [len(pair.references) for pair in (one, two, other, shot)] == [1, 2, 2, 1]
    assert (one.references, two.references) == (own[3].references, own[2].references), (
        "each is made from the other's faces"
    )
    assert all(picture.is_file() for pair in (one, two, other, shot) for picture in pair.references)
    assert shot.caption == "a person" and len(read_video(shot.video).frames) == 4, "one second of four frames"
    assert json.loads((lists / "tradeoff.json").read_text()) == []


def test_pairs_without_a_caption_are_left_out_and_counted(folder: Path) -> None:
    exported = export_pairs(folder)
    assert exported.uncaptioned == 2 and exported.shots == 0 and sorted(exported.lists.values()) == [0, 3, 3]


def test_a_dataset_can_be_moved_with_its_lists(folder: Path, tmp_path: Path) -> None:
    export_pairs(folder, caption="a person")
    shutil.move(folder, tmp_path / "moved")
    pairs = read_pairs([tmp_path / "moved" / "export" / "cross.json"])
    assert all(picture.is_file() for pair in pairs for picture in pair.references) and pairs[3].video.is_file()


@pytest.mark.parametrize("name", ["elsewhere", "with@@signs"])
def test_lists_can_lie_elsewhere(folder: Path, tmp_path: Path, name: str) -> None:
    moved = folder.rename(tmp_path / f"set {name}")
    progress: list[tuple[int, int]] = []
    export_pairs(moved, tmp_path / "lists", caption="a person", progress=lambda *args: progress.append(args))
    pairs = read_pairs([tmp_path / "lists" / "cross.json"])
    assert [len(pair.references) for pair in pairs] == [1, 2, 2, 1]
    assert all(picture.is_file() for pair in pairs for picture in pair.references)
    assert progress == [(done, 8) for done in range(1, 9)]


def test_a_dataset_without_pairs_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "pairs")
    with pytest.raises(UserError, match="has no pairs yet"):
        export_pairs(folder)
    assert not (folder / "export").exists()
