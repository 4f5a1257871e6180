"""Values that travel through an evaluation: what a benchmark asks for, a decoded video, what a metric says of it.

Axes, beside those of :mod:`likeness.types`: K are the frames that were kept of a video, R the references of a row.
A *protocol* is the name of one exact way to compute a number: two numbers of different protocols are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from likeness.errors import UserError

# What became of one metric on one video. Every status but `ok` comes with a reason in words.
Status = Literal["ok", "missing", "unreadable", "no reference face", "failed"]

# Which way a value is better; "" where it only describes.
Direction = Literal["higher", "lower", ""]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row of a benchmark: what should be there.

    Attributes:
        id: unique in the benchmark, the same in every run of it: runs are paired by it.
        video: where the video is expected; it may be missing.
        prompt: what the video should show; "" where nobody said.
        references: pictures of the people in it; empty where there are none.
        people: person of each reference, rising from 0: ``(0,)`` one photograph of one person, ``(0, 0)`` two
            photographs of one person, ``(0, 1)`` two people.
        group: identity for the bootstrap (the people of the row joined); rows of the same identity share it.
        tags: what the benchmark says besides, such as ``{"class": "man", "category": "photograph"}``.
    """

    id: str
    video: Path
    prompt: str
    references: tuple[Path, ...]
    people: tuple[int, ...]
    group: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.people) != len(self.references):
            raise UserError(
                f"The item {self.id} has {len(self.references)} references and {len(self.people)} person numbers; give "
                "one number a reference."
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """A decoded video with its references.

    Attributes:
        item: the row it belongs to.
        frames: ``uint8 [K, H, W, 3]`` RGB: every frame that some metric asked for, once.
        indices: ``int64 [K]``, strictly rising: their numbers in the video.
        num_frames: frames of the whole video, > 0.
        fps: frames per second, > 0.
        references: ``uint8 [H, W, 3]`` RGB each, in the order of ``item.references``.
    """

    item: Item
    frames: np.ndarray
    indices: np.ndarray
    num_frames: int
    fps: float
    references: tuple[np.ndarray, ...]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Frames by their number in the video, ``uint8 [len(indices), H, W, 3]``; a number may occur several times.

        Raises:
            KeyError: a frame that no metric asked for.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        places = np.searchsorted(self.indices, wanted)
        found = self.indices[np.minimum(places, len(self.indices) - 1)] == wanted
        if not found.all():
            raise KeyError(f"frame {int(wanted[~found][0])} of {self.item.id} was not decoded")
        return self.frames[places]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a metric says of a video.

    Attributes:
        values: by name, such as ``{"facesim_arc": 0.52, "coverage": 0.94}``; None where a value does not apply, and
            ``reason`` says why.
        curves: by name, one number a sampled frame; None where a frame has none.
        status: "ok", or why there are no values.
        reason: in words; empty where nothing is to be said.
        details: what a report shows besides, JSON-able, such as the matrix of references and tracks.
    """

    values: Mapping[str, float | None]
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    status: Status = "ok"
    reason: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


class Metric(Protocol):
    """Something that gives numbers for videos.

    Attributes:
        name: "facesim_arc", "clip_score", ...: the name it has in the registry.
        protocol: "consisid", "strict", "consisid-bgr", "vbench", ...
        weights: 16 hex digits of the SHA-256 of its weights; "" without any.
        needs_reference: whether it cannot be computed without pictures of the people.
        directions: by name of a value, which way it is better.
    """

    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def needs_reference(self) -> bool: ...
    @property
    def directions(self) -> Mapping[str, Direction]: ...

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """Frames that are looked at, ``int64 [any]`` in 0 .. num_frames - 1; may repeat, in any order."""
        ...

    def measure(self, sample: Sample) -> Result:
        """Its numbers for one video. One that cannot be judged gives a Result that says why, never an error."""
        ...


class BackendAbsent(UserError):
    """A metric needs weights that were not given; ``option`` is what gives them."""

    def __init__(self, option: str) -> None:
        super().__init__(f"backend absent: give {option} PATH")
        self.option = option


@dataclass(frozen=True, kw_only=True)
class Backends:
    """Where the weights of the metrics lie, as the user gave them; None: not given, and its metrics are absent.

    Attributes:
        faces: folder of a face pack (detector and recogniser).
        curricular: ``glint360k_curricular_face_r101_backbone.bin``, or its safetensors.
        clip: folder or Hub name of CLIP ViT-B/32 (CLIP-Score, CLIPDist).
        clip_large: folder or Hub name of CLIP ViT-L/14 (aesthetic).
        aesthetic: the linear head ``sa_0_4_vit_l_14_linear``.
        musiq, raft, amt, viclip: official checkpoints by path.
        device: where networks run, such as "cpu" or "cuda".
    """

    faces: Path | None = None
    curricular: Path | None = None
    clip: str | None = None
    clip_large: str | None = None
    aesthetic: Path | None = None
    musiq: Path | None = None
    raft: Path | None = None
    amt: Path | None = None
    viclip: Path | None = None
    device: str = "cpu"

    def need(self, name: str) -> Path:
        """The path given for ``name``.

        Raises:
            BackendAbsent: none was given.
            UserError: there is nothing at it.
        """
        path = Path(self.need_model(name))
        if not path.exists():
            raise UserError(f"There is nothing at {path}, which {_option(name)} names. Check the path.")
        return path

    def need_model(self, name: str) -> str:
        """The folder or the Hub name given for ``name``, not looked up.

        Raises:
            BackendAbsent: none was given.
        """
        given = getattr(self, name)
        if given is None:
            raise BackendAbsent(_option(name))
        return str(given)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
