"""Pairs of drawn people: the papers' bands, and files that training reads."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from likeness.media import read_picture, read_video
from likeness.recipes import pairs


def _at(*cosines: float) -> np.ndarray:
    """Unit vectors with these cosines to (1, 0)."""
    return np.array([[c, np.sqrt(1 - c * c)] for c in cosines])


def test_the_bands_are_the_published_ones() -> None:
    rng, anchor = np.random.default_rng(0), np.array([1.0, 0.0])
    assert pairs.choose(anchor, _at(0.5, 0.69, 0.995), rng) == (None, None)
    assert pairs.choose(anchor, _at(0.3, 0.75, 0.97, 0.93, 0.995), rng) == (1, 3)  # the least similar above 0.9
    assert pairs.choose(anchor, np.array([[0.9, np.sqrt(0.19)], [0.7, np.sqrt(0.51)]]), rng) == (1, 0)
    picked = {pairs.choose(anchor, _at(0.71, 0.8, 0.89, 0.2), rng)[0] for _ in range(60)}
    assert picked == {0, 1, 2}


@pytest.mark.parametrize("together", [1, 2])
def test_pairs_are_written_once_and_read_as_concat_id_has_them(together, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(pairs, "CLIPS", 2)
    command = ["pairs", "--output", str(tmp_path), "--people", "2", "--together", str(together), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", command)

    class InProcess:
        """A pool without processes, which would not see the patch."""

        def __init__(self, count: int) -> None: ...

        def __enter__(self):
            return self

        def __exit__(self, *reason) -> None: ...

        imap_unordered = staticmethod(map)

    monkeypatch.setattr(
        pairs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Pool": staticmethod(InProcess)})
    )
    pairs.main()
    rows = json.loads((tmp_path / "pretraining.json").read_text())
    num_clips = 2 * (2 if together == 1 else 1)
    assert len(rows) == num_clips * pairs.FACES
    for row in rows:
        references = row["image_path"].split("@@")
        assert len(references) == together and row["caption"]
        assert all(read_picture(tmp_path / path).shape == (64, 64, 3) for path in references)
        video = read_video(tmp_path / row["video_path"])
        keypoints = load_file(tmp_path / row["faces_path"])["keypoints"]
        assert keypoints.shape == (together, video.num_frames, 5, 2)
        stem = row["video_path"].removeprefix("clips/").removesuffix(".mp4")
        assert all(path.startswith(f"faces/{stem}") for path in references)  # faces of the clip itself
    for kind in ("cross", "tradeoff"):
        for row in json.loads((tmp_path / f"{kind}.json").read_text()):
            stem = row["video_path"].removeprefix("clips/").removesuffix(".mp4")
            assert not any(path.startswith(f"faces/{stem}_") for path in row["image_path"].split("@@"))
    photographs = json.loads((tmp_path / "photographs.json").read_text())
    assert len(photographs) == num_clips * pairs.PHOTOS
    for row in photographs:
        people = row["video_path"].removeprefix("clips/").split("_")[:together]
        references = row["image_path"].split("@@")
        assert [path.rsplit("_", 1)[0] for path in references] == [f"faces/{person}" for person in people]
        assert all("_p" in path and (tmp_path / path).is_file() for path in references)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/*.mp4")}
    pairs.main()
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/*.mp4")}
