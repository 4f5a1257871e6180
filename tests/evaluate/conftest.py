"""Runs for a study."""

import numpy as np
import pytest

from likeness.evaluate.types import Item
from likeness.media import write_picture, write_video
from likeness.types import Video


@pytest.fixture
def make_runs(tmp_path):
    """Runs of videos whose colour tells the run, with one photograph."""
    photograph = tmp_path / "secret_name.png"
    write_picture(photograph, np.full((40, 60, 3), 90, np.uint8))

    def make(names=("ours", "theirs"), ids=("a", "b", "c", "d"), prompt="a man nods"):
        runs = {}
        for shade, name in enumerate(names):
            rows = []
            for id in ids:
                path = tmp_path / name / f"{id}.mp4"
                frames = np.full((4, 32, 32, 3), 60 + 90 * shade, np.uint8)
                write_video(path, Video(frames, 8.0), metadata={"comment": f"made by {name}"})
                rows.append(Item(id=id, video=path, prompt=prompt, references=(photograph,), people=(0,), group="g"))
            runs[name] = rows
        return runs

    return make
