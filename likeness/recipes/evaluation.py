"""Every metric on drawn people who were never trained on: with their photograph, with somebody else's, with none.

    python -m likeness.recipes.evaluation --models concat-id=tiny st-drc=FOLDER --people 100 --prompts 3 --output RUN

makes `RUN/photographs`, `RUN/videos/MODEL/CONDITION`, a report of `likeness.evaluate` for each condition in `RUN/reports`, and the
tables in `RUN/table.md` and `RUN/table.json`. With somebody else's photograph identity must fall to chance. Drawn clips of the same
people are the ceiling of identity, and the level of chance for copying. It goes on where it was stopped. On a machine that others
use, set OMP_WAIT_POLICY=PASSIVE: threads that spin while they wait take most of the time there is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from likeness.backbones.load import resolve_model
from likeness.errors import UserError
from likeness.evaluate.metrics import build
from likeness.evaluate.record import Report
from likeness.evaluate.run import evaluate
from likeness.evaluate.types import Backends, Item
from likeness.faces import FaceTools, faces_folder, load_faces
from likeness.media import atomic_write, read_picture, write_video
from likeness.pipeline import LikenessPipeline
from likeness.recipes.evaluation_table import write_tables
from likeness.recipes.measure import prompts_of
from likeness.sidecar import PROVENANCE, folder_hashes
from likeness.types import Video
from likeness.world import FPS, VALIDATION_PEOPLE, caption_of, clip_of, draw
from likeness.world.folder import draw_photograph, write_photograph

FIRST = VALIDATION_PEOPLE.start + 70_000
REFERENCE, ANOTHER, NONE = "reference", "another", "none"  # whose photograph the model was shown
CONDITIONS = (REFERENCE, ANOTHER, NONE)
CLIPS = "drawn clips"
_BATCH = 8
_BY_NAME, _BY_PATH = ("clip", "clip_large"), ("curricular", "aesthetic", "musiq", "raft", "amt", "viclip")


@dataclass(frozen=True)
class Job:
    """One video that a model shall make, the same for every model and condition.

    Attributes:
        person: number of the drawn person; the *other* one is the next.
        number: of the prompt.
        prompt: what the video should show.
    """

    person: int
    number: int
    prompt: str

    @property
    def id(self) -> str:
        """Name of the row and of the file."""
        return f"{self.person}_{self.number}"

    @property
    def seed(self) -> int:
        """Of the noise; no two jobs share one."""
        return self.person * 100 + self.number


def jobs_of(first: int, people: int, prompts: int) -> list[Job]:
    """`prompts` jobs of each person, person after person."""
    return [
        Job(person, number, text)
        for person in range(first, first + people)
        for number, (text, _) in enumerate(prompts_of(person, prompts))
    ]


def photograph_of(person: int, folder: Path) -> Path:
    """The file of a person's photograph, drawn if it is not there."""
    path = folder / f"{person}.png"
    if not path.exists():
        write_photograph(path, draw_photograph(person))
    return path


def items_of(jobs: Sequence[Job], videos: Path, photographs: Path) -> list[Item]:
    """Rows of the benchmark: whatever the model was shown, the person of the prompt is what is asked for."""
    return [
        Item(
            id=job.id,
            video=videos / f"{job.id}.mp4",
            prompt=job.prompt,
            references=(photograph_of(job.person, photographs),),
            people=(0,),
            group=str(job.person),
        )
        for job in jobs
    ]


def generate(pipeline: LikenessPipeline, faces: FaceTools, jobs: Sequence[Job], condition: str, run: Path, videos: Path, steps: int | None) -> None:  # fmt: skip
    """Makes the videos of a condition that are not there.

    Args:
        faces: prepare photographs as `likeness generate` does.
        condition: one of CONDITIONS.
        run: folder of the whole; videos: folder of this condition's.
        steps: of denoising; None for the model's own number.
    """
    height, width = pipeline.config.default_height, pipeline.config.default_width
    missing = [job for job in jobs if not (videos / f"{job.id}.mp4").exists()]
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        shown = [job.person + (condition == ANOTHER) for job in batch]
        pictures = [read_picture(photograph_of(person, run / "photographs")) for person in shown]
        canvases = [[faces.reference(picture, height, width).canvas] for picture in pictures]
        output = pipeline(
            [job.prompt for job in batch],
            () if condition == NONE else canvases,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(job.seed) for job in batch],
        )
        for job, pixels in zip(batch, output.frames, strict=True):
            frames = np.rint(np.asarray(pixels) * 255).astype(np.uint8)
            video = Video(frames, float(pipeline.config.default_fps))
            write_video(videos / f"{job.id}.mp4", video, metadata={"comment": PROVENANCE})
        print(f"{videos.parent.name}, {condition}: {start + len(batch)} of {len(missing)} videos made", flush=True)


def draw_clips(jobs: Sequence[Job], videos: Path, height: int, width: int) -> list[Job]:
    """Draws clips of the jobs' people, which have captions of their own: the jobs with these as prompts."""
    drawn = []
    for job in jobs:
        clip = clip_of(job.person, job.number)
        path = videos / f"{job.id}.mp4"
        if not path.exists():
            write_video(path, Video(draw([clip], height=height, width=width).pixels[0], FPS))
        drawn.append(Job(job.person, job.number, caption_of(clip)))
    return drawn


def models_of(named: Sequence[str]) -> dict[str, Path]:
    """Models by label, from `LABEL=FOLDER` or the name of a model that is known.

    Raises:
        UserError: a label that comes twice, or a model that is not there.
    """
    models: dict[str, Path] = {}
    for text in named:
        label, _, place = text.rpartition("=")
        label = label or Path(place).name
        if label in models or "/" in label:
            raise UserError(f"The label {label!r} of --models {text} comes twice or has a slash. Give LABEL=FOLDER.")
        models[label] = resolve_model(place)
    return models


def check_settings(run: Path, settings: dict[str, object]) -> None:
    """Keeps in `run/settings.json` what the videos depend on.

    Raises:
        UserError: the videos that are there were made by other models or with other settings.
    """
    path = run / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    changed = [name for name, value in settings.items() if name in before and before[name] != value]
    if changed:
        raise UserError(f"The videos in {run} were made with another {changed[0]}. Choose another --output.")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**before, **settings}, indent=2) + "\n", encoding="utf-8")


def evaluate_all(arguments: argparse.Namespace) -> dict[tuple[str, str], Report]:
    """Make and measure what is missing: the report of each model and condition, and of the drawn clips."""
    run, models = arguments.output, models_of(arguments.models)
    fingerprints: dict[str, object] = {f"model {label}": folder_hashes(path) for label, path in models.items()}
    check_settings(run, {"first person": arguments.first, "steps": arguments.steps, **fingerprints})
    jobs = jobs_of(arguments.first, arguments.people, arguments.prompts)
    weights = {name: getattr(arguments, name) for name in (*_BY_NAME, *_BY_PATH)}
    backends = Backends(faces=faces_folder(arguments.faces), **weights)
    metrics, absent = build(backends)
    faces = load_faces(arguments.faces)
    reports: dict[tuple[str, str], Report] = {}
    size = (64, 64)
    for label, folder in models.items():
        pipeline = LikenessPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        size = pipeline.config.default_height, pipeline.config.default_width
        for condition in arguments.conditions:
            videos = run / "videos" / label / condition
            generate(pipeline, faces, jobs, condition, run, videos, arguments.steps)
            items = items_of(jobs, videos, run / "photographs")
            reports[label, condition] = evaluate(items, metrics, run / "reports" / label / condition, absent=absent)
            print(f"{label}, {condition}: measured", flush=True)
    clips = run / "videos" / CLIPS
    items = items_of(draw_clips(jobs, clips, *size), clips, run / "photographs")
    reports[CLIPS, ""] = evaluate(items, metrics, run / "reports" / CLIPS, absent=absent)
    return reports


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["tiny"], help="known names, or LABEL=FOLDER")
    parser.add_argument("--first", type=int, default=FIRST)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2, help="of torch; keep the whole to cores with taskset")
    parser.add_argument("--faces", type=Path, default=None)
    for name in _BY_NAME:
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help="folder or Hub name")
    for name in _BY_PATH:
        parser.add_argument(f"--{name}", type=Path, default=None)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    last = arguments.first + arguments.people  # the last one's other is the next person
    if arguments.first < VALIDATION_PEOPLE.start or last >= VALIDATION_PEOPLE.stop:
        parser.error(f"people {VALIDATION_PEOPLE.start} to {VALIDATION_PEOPLE.stop - 2} are for validation")
    torch.set_num_threads(arguments.threads)
    try:
        print(write_tables(evaluate_all(arguments), arguments.output))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
