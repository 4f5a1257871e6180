"""One clip in, its measures out: decode, detect, embed and cut out in one worker, since frames are too large to travel."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from PIL import Image

from likeness.curate.aesthetics import PICTURES, Aesthetics
from likeness.curate.config import CurationConfig
from likeness.curate.container import clip_error
from likeness.curate.decode import Sample, Timeline, read_samples, read_timeline
from likeness.curate.motion import flow_score, motion_score, small_grey
from likeness.curate.rules import common_count
from likeness.curate.tracks import Seen, Track, bridge, follow, in_order, seen, spread
from likeness.curate.types import ClipSource, Measured, Measures, ReferenceFace, TrackedFace
from likeness.faces import FaceTools, blank_background, load_faces
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.canvas import REFERENCE_CROP_PX
from likeness.media import sha256_file, write_picture

THUMBNAIL_PX = 256


class Measurer:
    """Measures clips; built once a worker, since it holds the models.

    Args:
        config: what is measured.
        faces: folder of the face models (see :func:`likeness.faces.load_faces`).
        dataset: folder below which reference pictures are written.
    """

    def __init__(self, config: CurationConfig, faces: str | Path, dataset: str | Path) -> None:
        cv2.setNumThreads(1)  # clips are measured side by side instead
        self.settings = config.measuring
        self.faces = load_faces(faces, threads=1)
        self.dataset = Path(dataset)
        self.aesthetics: Aesthetics | None = None
        if self.settings.clip and self.settings.aesthetics:
            self.aesthetics = Aesthetics.load(self.settings.clip, self.settings.aesthetics)

    def __call__(self, source: ClipSource) -> Measured:
        """Measure a clip.

        Raises:
            ClipError: it cannot be read.
            UserError: a reference picture cannot be written.
        """
        timeline = read_timeline(source, self.settings.samples_per_second)
        looked = _Looked(self.settings.max_people)
        if len(timeline.due) <= self.settings.max_samples:
            scored = set(spread(len(timeline.due), PICTURES))
            for sample in read_samples(source, timeline):
                self._look(sample, looked)
                if self.aesthetics and sample.number in scored:
                    looked.aesthetics.append(self.aesthetics.score(sample.picture))
            if not looked.times_s:
                raise clip_error(source, "corrupt", "none of its frames can be decoded")
        tracks = follow(looked.of_common_count(self.settings.tie), across_gaps=self.settings.across_gaps)
        return Measured(
            clip_id=clip_id(source),
            measures=self._measures(timeline, looked, tracks),
            faces=tuple(_tracked(tracks)),
            references=tuple(self._references(source, timeline, looked, tracks)),
            thumbnail=looked.thumbnail(),
        )

    def _look(self, sample: Sample, looked: _Looked) -> None:
        picture = sample.picture
        height, width = picture.shape[:2]
        pack = self.faces.pack
        found = pack.detect(picture, retry=self.settings.second_look)
        faces: list[Seen] = []
        if len(found) <= self.settings.max_people:
            for face in found:
                person = seen(face, pack.embed(picture, face), height, width)
                looked.crops[id(person)] = _aligned(picture, person)
                faces.append(person)
        looked.add(sample, len(found), faces, small_grey(picture, self.settings.flow_height))

    def _measures(self, timeline: Timeline, looked: _Looked, tracks: Sequence[Track]) -> Measures:
        return Measures(
            width=looked.size[1],
            height=looked.size[0],
            fps=timeline.fps,
            duration_s=timeline.duration_s,
            rotation=looked.rotation,
            num_expected=len(timeline.due),
            num_delivered=len(looked.times_s),
            num_corrupt=looked.num_corrupt,
            num_people=tuple(looked.num_people),
            cosines=tuple(track.cosines for track in tracks),
            areas=tuple(tuple(face.area for face in track.faces) for track in tracks),
            flow=flow_score(looked.greys, looked.times_s),
            motion=motion_score(looked.greys),
            aesthetics=fmean(looked.aesthetics) if looked.aesthetics else None,
            bridge=min((tie for track in tracks if (tie := bridge(track)) is not None), default=None),
        )

    def _references(
        self, source: ClipSource, timeline: Timeline, looked: _Looked, tracks: Sequence[Track]
    ) -> list[ReferenceFace]:
        references = []
        for person, track in enumerate(tracks):
            usable = in_order(tracks, person)
            for number, place in enumerate(spread(len(usable), self.settings.references)):
                index = usable[place]
                face, sample = track.faces[index], track.samples[index]
                name = f"crops/{source.key[:2]}/{source.key}_{person}_{number}.png"
                write_picture(self.dataset / name, _blanked(self.faces, looked.crops[id(face)]))
                references.append(
                    ReferenceFace(
                        track=person,
                        number=number,
                        sample=sample,
                        time_s=timeline.due[sample],
                        box=face.face.box,
                        keypoints=face.face.keypoints,
                        score=face.face.score,
                        area=face.area,
                        mean_x=track.mean_x,
                        embedding=np.zeros(0, np.float32) if face.embedding is None else face.embedding,
                        crop=name,
                    )
                )
        return references


class _Looked:
    """What is kept of the samples of a clip: no frame, only faces and small pictures."""

    def __init__(self, max_people: int) -> None:
        self.max_people = max_people
        self.times_s: list[float] = []
        self.numbers: list[int] = []
        self.num_people: list[int] = []
        self.faces: list[list[Seen]] = []
        self.greys: list[np.ndarray] = []
        self.thumbnails: list[np.ndarray] = []
        self.crops: dict[int, np.ndarray] = {}
        self.aesthetics: list[float] = []
        self.num_corrupt = 0
        self.rotation = 0
        self.size = (0, 0)

    def add(self, sample: Sample, num_people: int, faces: list[Seen], grey: np.ndarray) -> None:
        self.times_s.append(sample.time_s)
        self.numbers.append(sample.number)
        self.num_people.append(num_people)
        self.faces.append(faces)
        self.greys.append(grey)
        self.num_corrupt += sample.corrupt
        self.rotation = sample.rotation
        self.size = sample.picture.shape[:2]
        image = Image.fromarray(sample.picture)
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
        self.thumbnails.append(np.asarray(image))

    def of_common_count(self, tie: str) -> dict[int, list[Seen]]:
        count = common_count(self.num_people, tie)  # pyright: ignore[reportArgumentType]
        if not 1 <= count <= self.max_people:
            return {}
        return {
            number: faces
            for number, people, faces in zip(self.numbers, self.num_people, self.faces, strict=True)
            if people == count
        }

    def thumbnail(self) -> bytes:
        if not self.thumbnails:
            return b""
        file = io.BytesIO()
        Image.fromarray(self.thumbnails[len(self.thumbnails) // 2]).save(file, "JPEG", quality=85)
        return file.getvalue()


def clip_id(source: ClipSource) -> str:
    """32 hex digits of the SHA-256 of a file's bytes and the span: the same for a copy under another name."""
    status = os.stat(source.path)
    content = _content(source.path, status.st_size, status.st_mtime_ns)
    return hashlib.sha256(f"{content} {float(source.start_s)} {source.end_s}".encode()).hexdigest()[:32]


@lru_cache(maxsize=16)  # the shots of a long video come one after the other
def _content(path: str, size: int, modified_ns: int) -> str:
    return sha256_file(path)


def _aligned(picture: np.ndarray, person: Seen) -> np.ndarray:
    """The face on the reference template, ``uint8 [448, 448, 3]``, as ``likeness generate`` cuts it out."""
    matrix = estimate_similarity(person.face.keypoints, arcface_template(REFERENCE_CROP_PX))
    return warp(picture, matrix, REFERENCE_CROP_PX)


def _blanked(faces: FaceTools, crop: np.ndarray) -> np.ndarray:
    return blank_background(crop, faces.parser.labels(crop)) if faces.parser else crop


def _tracked(tracks: Sequence[Track]) -> list[TrackedFace]:
    return [
        TrackedFace(
            sample=sample,
            track=person,
            box=face.face.box,
            score=face.face.score,
            area=face.area,
            centre_x=face.centre_x,
        )
        for person, track in enumerate(tracks)
        for sample, face in zip(track.samples, track.faces, strict=True)
    ]
