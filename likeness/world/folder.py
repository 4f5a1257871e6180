"""Folders of drawn people: photographs, clips and the `metadata.json` that training on pairs reads.

```
DIR/000012/reference_0.png, reference_1.png     photographs of person 12, each in its own place, light and clothes
DIR/000012/clip_0.mp4 ...                       clips of person 12
DIR/000012_000013/clip_0.mp4 ...                clips of two people together
DIR/metadata.json                               [{"video_path", "caption", "image_path", "identity"}], Concat-ID's format and who is shown;
                                                paths relative to the file, the photographs of several people joined by @@ in the order
                                                of the people, left to right
DIR/drawing.json                                the settings everything in the folder was drawn with
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from likeness.errors import UserError
from likeness.media import atomic_write, write_video
from likeness.types import Video

SOFTWARE = "likeness world"  # the PNG text chunk that marks a photograph as drawn
REFERENCES_PER_PERSON = 2
MAX_GROUP = 3
PHOTO_SIZE = 256  # px
_CLIPS_A_CALL = 16  # large enough for the renderer to be efficient, small enough to show progress and to lose little


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """What every picture of a folder has in common; a folder never mixes two of these. Sizes in px.

    Attributes:
        height, width, num_frames, fps: of the clips.
        photo_size: side of the square photographs; larger than the clips, as people's photographs are.
    """

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    photo_size: int = PHOTO_SIZE

    def __post_init__(self) -> None:
        for name in ("height", "width", "photo_size"):
            value = getattr(self, name)
            if not 16 <= value <= 1024 or value % 2:
                raise UserError(f"{name} {value} cannot be drawn; it must be an even number from 16 to 1024")
        if not 1 <= self.num_frames <= 1000:
            raise UserError(f"{self.num_frames} frames cannot be drawn; the number must be from 1 to 1000")


@dataclass(frozen=True)
class Progress:
    """How far a drawing has come, in pictures and clips; `kept` of the `done` ones were there before."""

    done: int
    total: int
    kept: int


def write_photograph(path: Path, picture: np.ndarray) -> None:
    """Writes a drawn photograph, uint8 [H, W, 3], as a PNG that says that it is drawn (`is_drawn`)."""
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Software", SOFTWARE)
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)


def is_drawn(path: Path) -> bool:
    """Whether a picture says of itself that the world of drawn people made it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return False


def draw_photograph(person: int, number: int = 0, *, size: int = PHOTO_SIZE) -> np.ndarray:
    """Photograph `number` of a drawn person, uint8 [size, size, 3] RGB."""
    from likeness.world import draw, photo_of

    return draw([photo_of(person, number)], height=size, width=size).pixels[0, 0]


def draw_people(
    output: Path,
    *,
    first: int,
    num: int,
    clips: int,
    people: int = 1,
    settings: DrawingSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Draws `num` people from number `first` on, `clips` clips of each group of `people` of them; returns the metadata file.

    What is there already is kept, so that a stopped run goes on where it was and a folder can grow; what is listed in an existing
    `metadata.json` stays listed.

    Raises:
        UserError: counts below 1, people beyond the last one, a number that does not divide into groups, or a folder that was drawn
            with other settings.
    """
    settings = settings or DrawingSettings()
    groups = _groups(first, num, clips, people)
    output = Path(output)
    _check_folder(output, settings)
    photos = [(person, i) for group in groups for person in group for i in range(REFERENCES_PER_PERSON)]
    scenes = [(group, i) for group in groups for i in range(clips)]
    missing_photos = [(p, i) for p, i in photos if not (output / _photo_name(p, i)).exists()]
    missing_scenes = [(g, i) for g, i in scenes if not (output / _clip_name(g, i)).exists()]
    total = len(photos) + len(scenes)
    kept = total - len(missing_photos) - len(missing_scenes)
    done = kept

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(Progress(done, total, kept))

    if progress is not None:
        progress(Progress(done, total, kept))
    output.mkdir(parents=True, exist_ok=True)
    _write_json(output / "drawing.json", asdict(settings))
    _draw_photographs(output, missing_photos, settings, advance)
    _draw_clips(output, missing_scenes, settings, advance)
    return _write_metadata(output, scenes)


def _groups(first: int, num: int, clips: int, people: int) -> list[tuple[int, ...]]:
    from likeness.world.person import NUM_PEOPLE

    if num < 1:
        raise UserError(f"{num} people cannot be drawn; --num must be at least 1")
    if clips < 1:
        raise UserError(f"{clips} clips a person cannot be drawn; --clips must be at least 1")
    if not 1 <= people <= MAX_GROUP:
        raise UserError(f"{people} people in a clip cannot be drawn; --people must be from 1 to {MAX_GROUP}")
    if first < 0 or first + num > NUM_PEOPLE:
        raise UserError(
            f"people {first} to {first + num - 1} do not all exist; they are numbered from 0 to {NUM_PEOPLE - 1}"
        )
    if num % people:
        below, above = num - num % people, num - num % people + people
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"{num} people do not divide into groups of {people}; use --num {nearest}")
    return [tuple(range(start, start + people)) for start in range(first, first + num, people)]


def _check_folder(output: Path, settings: DrawingSettings) -> None:
    path = output / "drawing.json"
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read; give another --output or remove that folder") from None
    if there != asdict(settings):
        raise UserError(
            f"{output} holds people drawn with other settings ({there}); give another --output or the same settings"
        )


def _draw_photographs(
    output: Path, photos: list[tuple[int, int]], settings: DrawingSettings, advance: Callable[[], None]
) -> None:
    from likeness.world import draw, photo_of

    for part in _parts(photos):
        drawing = draw([photo_of(*photo) for photo in part], height=settings.photo_size, width=settings.photo_size)
        for (person, i), frames in zip(part, drawing.pixels, strict=True):
            path = output / _photo_name(person, i)
            path.parent.mkdir(exist_ok=True)
            write_photograph(path, frames[0])
            advance()


def _draw_clips(
    output: Path, scenes: list[tuple[tuple[int, ...], int]], settings: DrawingSettings, advance: Callable[[], None]
) -> None:
    from likeness.world import clip_of, draw

    for part in _parts(scenes):
        drawing = draw(
            [clip_of(group, i) for group, i in part],
            height=settings.height,
            width=settings.width,
            num_frames=settings.num_frames,
            fps=settings.fps,
        )
        for (group, i), frames in zip(part, drawing.pixels, strict=True):
            path = output / _clip_name(group, i)
            path.parent.mkdir(exist_ok=True)
            write_video(path, Video(frames, settings.fps))
            advance()


def _write_metadata(output: Path, scenes: list[tuple[tuple[int, ...], int]]) -> Path:
    """Entries that are listed already stay, so that a second part of the people joins the first."""
    from likeness.world import clip_of
    from likeness.world.captions import caption_of

    path = output / "metadata.json"
    entries = {}
    if path.exists():
        try:
            entries = {entry["video_path"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is not a list of clips; remove it and run the command again") from None
    for group, i in scenes:
        photos = "@@".join(_photo_name(person, i % REFERENCES_PER_PERSON) for person in group)
        name = _clip_name(group, i)
        entries[name] = {
            "video_path": name,
            "caption": caption_of(clip_of(group, i)),
            "image_path": photos,
            "identity": _group_name(group),  # clips of one person come with different photographs
        }
    _write_json(path, list(entries.values()))
    return path


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _photo_name(person: int, number: int) -> str:
    return f"{person:06d}/reference_{number}.png"


def _clip_name(group: tuple[int, ...], number: int) -> str:
    return f"{_group_name(group)}/clip_{number}.mp4"


def _group_name(group: tuple[int, ...]) -> str:
    return "_".join(f"{person:06d}" for person in group)


def _parts(items: list) -> Iterator[list]:
    for start in range(0, len(items), _CLIPS_A_CALL):
        yield items[start : start + _CLIPS_A_CALL]
