"""What is to be made: settings, jobs, and the names of their files. Nothing here loads a model."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from likeness.batch import PICTURE_SUFFIXES, BatchItem, is_file
from likeness.errors import UserError
from likeness.media import read_picture, sha256_file
from likeness.method import ReferenceKind
from likeness.sidecar import read_sidecar
from likeness.textfile import read_text

MAX_SEED = 2**63 - 1
MAX_CANDIDATES = 1000
MAX_PROMPT_BYTES = 2**20  # beyond any prompt; a file this large was not meant as one
VIDEO_SUFFIX = ".mp4"
_OTHER_VIDEO_SUFFIXES = frozenset((".avi", ".mov", ".webm", ".mkv", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv"))
_TEXT_SUFFIXES = frozenset((".txt", ".md"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a video besides its prompt, its photographs and the weights. None stands for the model's own default.

    Attributes:
        seed: of the starting noise, 0 to 2**63 - 1; the noise depends on nothing else.
        height, width: px.
        num_frames: frames of the video; most models want 4n + 1.
        fps: frames a second that the file is played at.
        num_inference_steps: denoising steps.
        text_guidance, reference_guidance: scales; 1 is no guidance.
        negative_prompt: what should not be in the video.
        method: name of another conditioning method than the model's own.
        require_face: refuse a photograph without a face.
        face_index: which face, counted from the left from 0; the largest by default.

    Raises:
        UserError: a value that no model could take.
    """

    seed: int = 0
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    text_guidance: float | None = None
    reference_guidance: float | None = None
    negative_prompt: str = ""
    method: str | None = None
    require_face: bool = False
    face_index: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(
                f"The seed {self.seed} is out of range; it must be from 0 to {MAX_SEED}. Choose another one."
            )
        for name, noun in (
            ("height", "height"),
            ("width", "width"),
            ("num_frames", "number of frames"),
            ("num_inference_steps", "number of steps"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(
                    f"The {noun} {value} is out of range; it must be at least 1. Leave it out for the model's own."
                )
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise UserError(
                f"The frame rate {self.fps} is out of range; it must be above 0 and at most 1000 frames a second."
            )
        for name, noun in (("text_guidance", "text guidance"), ("reference_guidance", "reference guidance")):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UserError(f"The {noun} {value} is not a finite number. Give one such as 5, or 1 for no guidance.")
        if self.face_index is not None and self.face_index < 0:
            raise UserError(
                f"The face index {self.face_index} is out of range; faces are counted from the left, 0 first."
            )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """To make several videos that differ in their seed alone, and to take the best.

    Attributes:
        num: how many, with the seeds from the job's own on; 2 to `MAX_CANDIDATES`.
        select: by what: "identity" is the likeness to the photographs, as `likeness evaluate` measures it.
        keep: whether the others are kept, in a folder beside the video.

    Raises:
        UserError: a number out of range, or nothing to select by.
    """

    num: int
    select: str = "identity"
    keep: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.num <= MAX_CANDIDATES:
            raise UserError(
                f"{self.num} candidates were asked for; give 2 to {MAX_CANDIDATES}, or leave --candidates out for one video."
            )
        if self.select != "identity":
            raise UserError(f"Candidates cannot be selected by {self.select!r}. Use --select identity.")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to be made.

    Attributes:
        prompt: not empty.
        references: photographs; none for a video of nobody in particular.
        output: the .mp4 file.
        sheet: the contact sheet's .png file; None for no sheet.
        settings: see `Settings`.
        key: the name the user gave to the job, if any.
        where: where the job was asked for, for messages.
        kinds: what each reference shows; empty where all show faces.
        choice: candidates to choose from; None for one video as it comes.
    """

    prompt: str
    references: tuple[Path, ...]
    output: Path
    sheet: Path | None
    settings: Settings
    key: str | None = None
    where: str = ""
    kinds: tuple[ReferenceKind, ...] = ()
    choice: Choice | None = None

    @property
    def reference_kinds(self) -> tuple[ReferenceKind, ...]:
        """One a reference."""
        return self.kinds or ("face",) * len(self.references)

    @property
    def faces(self) -> tuple[Path, ...]:
        """The references that show faces."""
        return tuple(path for path, kind in zip(self.references, self.reference_kinds, strict=True) if kind == "face")


def prompt_text(given: str) -> str:
    """The prompt itself: `given`, or what the file of that name holds.

    Raises:
        UserError: an empty prompt, a file that is not a text, or a name like `prompt.txt` of no file.
    """
    text, path = given, Path(given)
    if is_file(path):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            raise UserError(
                f"The prompt {given} is a picture. Give photographs with --reference and say in words what happens."
            )
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise UserError(
                f"The prompt file {given} is larger than {MAX_PROMPT_BYTES // 2**20} MiB; that is no prompt. Shorten it."
            )
        text = read_text(path, f"The prompt file {given}")
    elif path.suffix.lower() in _TEXT_SUFFIXES and not re.search(r"\s", given):
        raise UserError(f"There is no prompt file {given}. Check the path, or give the prompt itself.")
    text = " ".join(text.split())
    if not text:
        raise UserError("The prompt is empty. Say what happens in the video, such as 'a woman laughs in the snow'.")
    return text


def plan(
    items: Sequence[BatchItem],
    output: Path,
    settings: Settings,
    *,
    sheet: bool = True,
    choice: Choice | None = None,
) -> list[Job]:
    """Jobs with their output files.

    `output` is an .mp4 file (for a single item) or a folder. In a folder a video is named after its key, otherwise after its photograph,
    prompt and seed, so its name does not depend on the order of a batch; the second video of the same name gets a suffix.

    Raises:
        UserError: an output that cannot be one.
    """
    if output.suffix.lower() in _OTHER_VIDEO_SUFFIXES:
        raise UserError(f"The output {output} is not an .mp4 file. Name an .mp4 file or a folder.")
    is_one_file = output.suffix.lower() == VIDEO_SUFFIX
    if is_one_file and len(items) > 1:
        raise UserError(f"{len(items)} videos do not fit into the one file {output}. Give a folder as --output.")
    if is_one_file and output.is_dir():
        raise UserError(f"The output {output} is a folder with the name of a video. Give another --output.")
    if not is_one_file and output.exists() and not output.is_dir():
        raise UserError(
            f"The output {output} is a file. Give a folder, or the name of an {VIDEO_SUFFIX} file, as --output."
        )
    _check_writable(output.parent if is_one_file else output)
    jobs: list[Job] = []
    taken: set[str] = set()
    for item in items:
        own = settings if item.seed is None else replace(settings, seed=item.seed)
        path = output if is_one_file else output / f"{_unique(_name(item, own.seed), item, taken)}{VIDEO_SUFFIX}"
        job = Job(
            prompt=item.prompt,
            references=item.references,
            output=path,
            sheet=_sheet_path(path, item.references) if sheet else None,
            settings=own,
            key=item.key,
            where=item.where,
            kinds=item.kinds,
            choice=choice,
        )
        jobs.append(job)
    return jobs


@dataclass(frozen=True)
class Recalled:
    """What a sidecar says about how its video was made.

    Attributes:
        prompt, settings, model: as they were given then.
        faces: the folder of the face models, if one was named.
        photographs: (path, SHA-256) each.
        output: the video itself.
        record: the whole sidecar.
    """

    prompt: str
    settings: Settings
    model: str
    faces: Path | None
    photographs: tuple[tuple[Path, str], ...]
    output: Path
    record: dict[str, Any]

    @property
    def kinds(self) -> tuple[ReferenceKind, ...]:
        """What each photograph shows."""
        return tuple(item.get("kind", "face") for item in self.record["references"])

    def references(self) -> tuple[Path, ...]:
        """The photographs.

        Raises:
            UserError: one that is gone or is not the same any more.
        """
        for path, digest in self.photographs:
            if not is_file(path):
                raise UserError(f"The photograph {path} of the sidecar is gone. Say where it is with --reference.")
            if sha256_file(path) != digest:
                raise UserError(
                    f"The photograph {path} is not the one that the sidecar was made with. Give that one with --reference."
                )
        return tuple(path for path, _ in self.photographs)


def recall(sidecar: Path) -> Recalled:
    """Reads a sidecar back into what is needed to make its video again. Its paths are relative to itself.

    Raises:
        UserError: not a sidecar, or one with settings that are not known here.
    """
    record, folder = read_sidecar(sidecar), Path(sidecar).parent
    try:
        return Recalled(
            prompt=record["prompt"],
            settings=Settings(**record["settings"]),
            model=record["model_name"] or str(folder / record["model_path"]),
            faces=None if record["faces_path"] is None else folder / record["faces_path"],
            photographs=tuple((folder / item["path"], item["sha256"]) for item in record["references"]),
            output=folder / record["video"],
            record=record,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The sidecar {sidecar} lacks or has something that is not understood here: {error}. Was it made by another version?"
        ) from None


def check_photographs(job: Job) -> None:
    """Reads the photographs of a job, so that a mistake shows before a model of many gigabytes is loaded.

    Raises:
        UserError: a photograph that cannot be read, or candidates without a photograph to choose by.
    """
    for path in job.references:
        read_picture(path)
    check_choice(job)


def check_choice(job: Job) -> None:
    """Whether there is something to choose candidates by, and a seed for each.

    Raises:
        UserError: there is not.
    """
    if job.choice is None:
        return
    if not job.faces:
        raise UserError(
            "Candidates are chosen by their likeness to a photograph, and there is none of a face. Give one with "
            "--reference, or leave --candidates out."
        )
    if job.settings.seed + job.choice.num - 1 > MAX_SEED:
        raise UserError(
            f"The {job.choice.num} candidates from seed {job.settings.seed} on would pass {MAX_SEED}. Give a smaller --seed."
        )


def _check_writable(folder: Path) -> None:
    """A first look before the long work: the nearest existing part of the path must be a folder. Writing itself is checked again."""
    for part in (folder, *folder.parents):
        if part.is_dir():
            if not os.access(part, os.W_OK | os.X_OK):
                raise UserError(
                    f"The output folder {folder} cannot be written: no permission in {part}. Choose another --output."
                )
            return
        if part.exists():
            raise UserError(f"The output folder {folder} cannot be made: {part} is a file. Choose another --output.")


def _sheet_path(video: Path, references: tuple[Path, ...]) -> Path:
    """ann.mp4 has the sheet ann.png, unless that is the very photograph that the video is made from."""
    path = video.with_suffix(".png")
    is_photograph = any(is_file(reference) and path.resolve() == reference.resolve() for reference in references)
    return path.with_name(f"{path.stem}_sheet.png") if is_photograph else path


def _name(item: BatchItem, seed: int) -> str:
    if item.key is not None:
        return re.sub(r"[^\w.\-]+", "_", item.key).strip("._") or "video"
    words = [_slug(item.references[0].stem, 24)] if item.references else []
    return "_".join([*words, _slug(item.prompt, 48), f"seed{seed}"])


def _slug(text: str, limit: int) -> str:
    return re.sub(r"\W+", "_", text.lower())[:limit].strip("_") or "x"


def _unique(name: str, item: BatchItem, taken: set[str]) -> str:
    """`name`, or with a mark of the item's own content; the same item twice is counted. Compared as file systems do, without case."""
    if name.casefold() in taken:
        content = "\0".join([item.prompt, *(path.as_posix() for path in item.references)])
        name = f"{name}_{hashlib.sha256(content.encode()).hexdigest()[:6]}"
    counted, count = name, 1
    while counted.casefold() in taken:
        count += 1
        counted = f"{name}_{count}"
    taken.add(counted.casefold())
    return counted
