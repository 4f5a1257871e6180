"""Data sets whose measures are made up: no video is decoded, everything after that is real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from likeness.curate.config import CurationConfig
from likeness.curate.run import curate
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measured, Measures, ReferenceFace
from likeness.media import write_picture


def measures(**changes) -> Measures:
    """Of a clip of one person that passes every rule."""
    values = {
        "width": 640, "height": 360, "fps": 25.0, "duration_s": 3.0, "rotation": 0, "num_expected": 6, "num_delivered": 6,
        "num_corrupt": 0, "num_people": (1,) * 6, "cosines": ((0.8,) * 5,), "areas": ((0.1,) * 6,),
        "flow": 0.1, "motion": 0.05, "aesthetics": None,
    }  # fmt: skip
    return Measures(**(values | changes))


def dataset_of(folder: Path, outcomes: Sequence[Outcome], faces: Path | None = None) -> Path:
    """A data set in which workers have told just this, with the models of a folder or none."""

    def told(sources, make, *, workers, deadline_s):
        wanted = {source.key for source in sources}
        yield from (outcome for outcome in outcomes if outcome.source.key in wanted)

    pack = folder.parent / "pack"
    pack.mkdir(exist_ok=True)
    (pack / "detector.onnx").write_bytes(b"a detector")
    sources = [outcome.source for outcome in outcomes]
    return curate(sources, folder, CurationConfig(), faces=faces or pack, runner=told).folder


def reference(key: str, track: int, embedding: list[float], folder: Path) -> ReferenceFace:
    crop = f"crops/{key[:2]}/{key}_{track}_0.png"
    write_picture(folder / crop, np.full((16, 16, 3), 50 * track, np.uint8))
    centre = 0.2 + 0.4 * track
    return ReferenceFace(
        track=track, number=0, sample=0, time_s=0.0, box=(640 * centre - 50, 9.0, 640 * centre + 50, 99.0),
        keypoints=np.zeros((5, 2), np.float32), score=0.9, area=0.1, mean_x=centre,
        embedding=np.array(embedding, np.float32), crop=crop,
    )  # fmt: skip


def paired_dataset(folder: Path) -> Path:
    """One person in two clips, of which one is a shot of a long video and has no caption, and two people in two others."""
    near = folder.parent
    clips: list[tuple[ClipSource, list[list[float]]]] = [
        (ClipSource(path=str(near / "a.mp4"), caption=' A woman: "yes" & ü\n'), [[1, 0, 0, 0, 0]]),
        (ClipSource(path=str(near / "b.mp4"), caption="Two men talk."), [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]),
        (ClipSource(path=str(near / "c.mp4"), caption="Men."), [[0, 0, 0.9, 0, 0.43], [0, 0, 0, 0.9, -0.43]]),
        (ClipSource(path=str(near / "long.mp4"), start_s=1.0, end_s=2.0), [[0.8, 0.6, 0, 0, 0]]),
    ]
    outcomes = []
    for number, (source, people) in enumerate(clips):
        seen = {"num_people": (len(people),) * 6, "cosines": ((0.9,),) * len(people), "areas": ((0.1,),) * len(people)}
        faces = [reference(source.key, track, vector, folder) for track, vector in enumerate(people)]
        measured = Measured(
            clip_id=f"{number:032x}", measures=measures(**seen), faces=(), references=tuple(faces), thumbnail=b""
        )
        outcomes.append(Outcome(source=source, status="ok", measured=measured))
    (folder / "crops").rename(near / "crops")  # a folder that is no data set is refused
    folder = dataset_of(folder, outcomes)
    (near / "crops").rename(folder / "crops")
    return folder
