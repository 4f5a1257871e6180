"""Small parts that tests of evaluations share: clips of a few frames, a metric whose answer is known, made-up reports."""

import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.record import Record, Row, load_report, write_run
from likeness.evaluate.types import Item, Result
from likeness.media import write_video
from likeness.types import Video


def grey_clip(path, levels, size=16, fps=8):
    """A clip whose frame i has the grey level levels[i]; half a level is lost in encoding at most."""
    pixels = np.repeat(np.array(levels, np.uint8)[:, None], size * size * 3, 1).reshape(-1, size, size, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, Video(pixels, fps), crf=1)
    return path


def item(id, video, group="ann", prompt="a man walks", references=()):
    return Item(
        id=id, video=video, prompt=prompt, references=references, people=tuple(range(len(references))), group=group
    )


class Brightness:
    """Mean grey level of the first and the last frame; what it was asked is kept in `asked`."""

    def __init__(self, name="brightness", weights="", needs_reference=False, protocol="own"):
        self.name, self.protocol, self.weights, self.needs_reference = name, protocol, weights, needs_reference
        self.directions = {"level": "higher"}
        self.asked = []

    def indices(self, num_frames, fps):
        return frames.consisid(num_frames, 2)

    def measure(self, sample):
        self.asked.append(sample.item.id)
        levels = sample.take(self.indices(sample.num_frames, sample.fps)).mean((1, 2, 3))
        return Result(values={"level": float(levels.mean())}, curves={"level": levels.tolist()})


def row(id, value, *, key=None, metric="brightness", **others):
    """A row with a number, of a video of 64 x 48 px and 17 frames unless told otherwise."""
    given = {
        "protocol": "own",
        "weights": "",
        "status": "ok",
        "values": {"level": value},
        "width": 64,
        "height": 48,
        "num_frames": 17,
        "fps": 8.0,
    }
    return Row(**{"key": key or f"{metric} {id}", "id": id, "metric": metric, **given, **others})


def made_up_report(folder, rows, groups=None, prompts=None, metrics=None):
    """A report's folder with these rows; the group of an id is the part before its dash."""
    ids = list(dict.fromkeys(row.id for row in rows))
    items = [
        item(
            id,
            folder / f"{id}.mp4",
            group=(groups or {}).get(id, id.split("-")[0]),
            prompt=(prompts or {}).get(id, "a man walks"),
        )
        for id in ids
    ]
    with Record(folder) as record:
        record.append(rows)
    write_run(folder, items, metrics or [Brightness()], {})
    return load_report(folder)
