"""User studies: a static page with blinded pairs of videos, to be judged by people (Concat-ID, section 5.2).

```
STUDY/page/index.html       what voters get: the pairs in an order and with sides drawn by the seed; opens without a server
STUDY/page/media/001_left.mp4 ...
STUDY/key.json              which run was on which side; kept from the voters
```

The page holds no name of a run, of an item or of a file, and nothing from which the sides could be computed. Half of
the pairs of every two runs have the first one on the left. Votes come back as JSON files, see :mod:`likeness.evaluate.tally`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from likeness.errors import UserError
from likeness.evaluate.decode import UnreadableVideo, read_frames
from likeness.evaluate.pages import page
from likeness.evaluate.types import Item
from likeness.media import read_picture, read_video, sha256_bytes, sha256_file, write_video
from likeness.threads import stop_signals

FORMAT = "likeness-study-1"
VOTES_FORMAT = "likeness-votes-1"
KEY_NAME = "key.json"
SIDES = ("left", "right")
PHOTOGRAPH_PX = 512  # longer side of a photograph on the page
_CRF = 12  # of videos that browsers do not play as they are: beyond what an eye can tell


@dataclass(frozen=True)
class Question:
    """What voters are asked of a pair; `id` names the answer in votes and tables."""

    id: str
    text: str


# The three questions of the paper's study, in its order.
QUESTIONS = (
    Question("identity", "In which video does the face match the photograph best?"),
    Question("motion", "Which video follows the facial expressions and head movements of the text best?"),
    Question("naturalness", "In which video is the motion of the face the most natural and smooth?"),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two videos of one item, side by side.

    Attributes:
        id: its number in the study, such as "001".
        left, right: names of the runs.
        items: by name of the run, the row with its video.
    """

    id: str
    left: str
    right: str
    items: Mapping[str, Item]


@dataclass(frozen=True, kw_only=True)
class Key:
    """What the page does not say.

    Attributes:
        study: 16 hex digits that stand on the page and in every file of votes; a digest of the rest.
        seed: that sides and order were drawn by.
        runs: their names.
        questions: ids, in order.
        pairs: by id of a pair ``{"item", "left", "right"}``, the sides naming runs.
        left_out: by id of an item, why it is in no pair of some two runs.
    """

    study: str
    seed: int
    runs: tuple[str, ...]
    questions: tuple[str, ...]
    pairs: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]


def write_study(
    runs: Mapping[str, Sequence[Item]],
    folder: Path,
    *,
    seed: int,
    num: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Key:
    """Writes a study of every two runs into a new folder.

    Args:
        runs: by name, the rows of a run; rows of several runs belong together by their ``id``.
        folder: must not exist, or be empty.
        seed: of sides and order; whoever knows it and the runs can tell the sides.
        num: at most so many items of every two runs, chosen by the seed; None: all.
        progress: is told the pairs done and their total.

    Stopped by a signal or an error, it leaves nothing.

    Raises:
        UserError: fewer than two runs, runs without a common item, items that differ in prompt or references, a
            photograph that cannot be read, or a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"The output {folder} is there already and may hold votes. Give another --output, or remove it yourself."
        )
    pairs, left_out = pair_up(runs, seed=seed, num=num)
    key = _key(tuple(runs), pairs, left_out, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        media = building / "page" / "media"
        media.mkdir(parents=True)
        shown = []
        with stop_signals() as asked:
            for number, pair in enumerate(pairs):
                if asked:
                    raise KeyboardInterrupt
                if progress is not None:
                    progress(number, len(pairs))
                shown.append(_write_media(pair, media))
        data = {
            "study": key.study,
            "votes_format": VOTES_FORMAT,
            "questions": [asdict(question) for question in QUESTIONS],
            "pairs": shown,
        }
        index = page("study", {"study": _for_script(data)})
        (building / "page" / "index.html").write_text(index, encoding="utf-8")
        text = json.dumps({"format": FORMAT, **asdict(key)}, indent=1, ensure_ascii=False)
        (building / KEY_NAME).write_text(text + "\n", encoding="utf-8")
        building.chmod(0o755)  # mkdtemp makes it for its owner alone
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if progress is not None:
        progress(len(pairs), len(pairs))
    return key


def pair_up(
    runs: Mapping[str, Sequence[Item]], *, seed: int, num: int | None = None
) -> tuple[list[Pair], dict[str, str]]:
    """Pairs in the order of the page, and why items are left out: a video that is missing or broken in a run.

    Sides are balanced: of the pairs of two runs, each is on the left in half of them, or in one more.

    Raises:
        UserError: see `write_study`.
    """
    if len(runs) < 2:
        raise UserError("A study compares runs; give at least two folders of videos.")
    if num is not None and num < 1:
        raise UserError(f"{num} items were asked for; a study needs at least 1.")
    rng = random.Random(seed)
    left_out: dict[str, str] = {}
    drawn: list[tuple[str, str, dict[str, Item]]] = []
    trouble = lru_cache(maxsize=None)(_trouble)
    for first, second in combinations(runs, 2):
        rows = {name: {item.id: item for item in runs[name]} for name in (first, second)}
        common = []
        for id in sorted(rows[first].keys() | rows[second].keys()):
            wrong = [
                f"{told} in {name}"
                for name in (first, second)
                if (told := trouble(rows[name][id].video if id in rows[name] else None))
            ]
            if wrong:
                left_out[id] = ", ".join(wrong)
            else:
                _check_same(rows[first][id], rows[second][id], first, second)
                common.append({name: rows[name][id] for name in (first, second)})
        if not common:
            raise UserError(
                f"The runs {first} and {second} have no video of the same item. Make both from the same batch file or "
                "benchmark, so that their videos have the same names."
            )
        chosen = rng.sample(common, min(num or len(common), len(common)))
        swapped = [index % 2 == 1 for index in range(len(chosen))]
        rng.shuffle(swapped)
        drawn += [
            (second, first, items) if swap else (first, second, items)
            for swap, items in zip(swapped, chosen, strict=True)
        ]
    rng.shuffle(drawn)
    width = max(3, len(str(len(drawn))))
    pairs = [
        Pair(id=f"{number:0{width}}", left=left, right=right, items=items)
        for number, (left, right, items) in enumerate(drawn, 1)
    ]
    return pairs, left_out


def _trouble(path: Path | None) -> str:
    """Why a video cannot be shown; "" for one that can."""
    if path is None or not path.is_file():
        return "no video"
    try:
        read_frames(path, lambda num_frames, fps: np.zeros(1, np.int64))
    except UnreadableVideo as error:
        return f"an unreadable video ({error})"
    return ""


def read_key(folder: Path) -> Key:
    """The key of a study.

    Raises:
        UserError: there is none, or it is not as it was written.
    """
    path = folder / KEY_NAME
    try:
        given: Any = json.loads(path.read_text(encoding="utf-8"))
        if given.pop("format") != FORMAT:
            raise UserError(f"{path} is not the key of a study. Give the folder that `likeness study` has written.")
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        key = Key(**given)
        intact = key.study == _digest(key)
    except OSError as error:
        raise UserError(
            f"There is no key of a study at {path} ({error.strerror}). Give the folder that `likeness study` has written."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The key {path} cannot be read ({error}). Copy it again from where it was written.") from None
    if not intact:
        raise UserError(f"The key {path} is not as it was written. Copy it again; votes cannot be read without it.")
    return key


def _check_same(one: Item, other: Item, first: str, second: str) -> None:
    """Raises unless both rows ask for the same video."""
    if one.prompt != other.prompt:
        what = "prompts"
    elif [sha256_file(path) for path in one.references] != [sha256_file(path) for path in other.references]:
        what = "photographs"
    else:
        return
    raise UserError(
        f"The item {one.id} has different {what} in {first} and {second}; a pair must answer the same request. Compare "
        "runs of one batch file or benchmark."
    )


def _key(runs: tuple[str, ...], pairs: Sequence[Pair], left_out: Mapping[str, str], seed: int) -> Key:
    listed = {pair.id: {"item": pair.items[pair.left].id, "left": pair.left, "right": pair.right} for pair in pairs}
    ids = tuple(question.id for question in QUESTIONS)
    key = Key(study="", seed=seed, runs=runs, questions=ids, pairs=listed, left_out=left_out)
    return Key(**{**asdict(key), "study": _digest(key)})


def _digest(key: Key) -> str:
    content = {name: value for name, value in asdict(key).items() if name != "study"}
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:16]


def _write_media(pair: Pair, media: Path) -> dict[str, Any]:
    """Copies what a pair shows under names that tell nothing; returns its entry on the page."""
    shown: dict[str, Any] = {"id": pair.id, "prompt": pair.items[pair.left].prompt}
    for side, run in zip(SIDES, (pair.left, pair.right), strict=True):
        shown[side] = f"media/{pair.id}_{side}.mp4"
        _copy_video(pair.items[run].video, media.parent / shown[side])
    shown["references"] = []
    for number, path in enumerate(pair.items[pair.left].references):
        shown["references"].append(f"media/{pair.id}_photograph_{number}.jpg")
        image = Image.fromarray(read_picture(path))  # a photograph's own file may say where and when it was taken
        image.thumbnail((PHOTOGRAPH_PX, PHOTOGRAPH_PX), Image.Resampling.LANCZOS)
        image.save(media.parent / shown["references"][-1], quality=90)
    return shown


def _copy_video(source: Path, target: Path) -> None:
    """The pictures of a video in a file that browsers play, without sound and without the texts that name its maker.

    H.264 keeps its bytes; anything else is encoded once more.
    """
    import av

    with av.open(str(source)) as given:
        stream = given.streams.video[0]
        if stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p":
            options = {"movflags": "+faststart", "fflags": "+bitexact"}
            with av.open(str(target), "w", format="mp4", options=options) as copy:
                out = copy.add_stream_from_template(stream)
                out.metadata.clear()
                for packet in given.demux(stream):
                    if packet.dts is not None:  # the last, empty one flushes a decoder
                        packet.stream = out
                        copy.mux(packet)
            return
    write_video(target, read_video(source), crf=_CRF)


def _for_script(data: Any) -> str:
    """JSON that cannot end the script element it stands in, nor begin another."""
    text = json.dumps(data, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
