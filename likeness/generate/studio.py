"""A loaded model at work: photographs to canvases, canvases and prompts to a video, a video to similarities."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeness.backbones.known import MODELS
from likeness.backbones.load import folders_of
from likeness.convert.fetch import prepare
from likeness.errors import UserError
from likeness.faces import FaceTools, Reference, faces_folder, load_faces, whole_picture
from likeness.generate.jobs import Job, Settings
from likeness.media import read_picture, sha256_file
from likeness.method import METHODS, ReferenceKind
from likeness.pipeline import LikenessPipeline
from likeness.sidecar import folder_hashes, portable_path, software_versions
from likeness.types import Video
from likeness.world.folder import is_drawn


@dataclass(frozen=True, eq=False)
class Made:
    """A video and what is known about it.

    Attributes:
        video: the frames.
        references: the photographs as the model was shown them.
        similarity: for each photograph, for each frame, how much the most similar face resembles it, in -1..1; None
            where there is no face.
        warnings: what the user should know.
    """

    video: Video
    references: tuple[Reference, ...]
    similarity: tuple[tuple[float | None, ...], ...]
    warnings: tuple[str, ...]


@dataclass(eq=False)
class Studio:
    """A pipeline with its face models, and what a list of jobs can share.

    Each distinct photograph (by content) and each distinct prompt is encoded once and kept until the last job that
    needs it is through: `expect` counts the uses, `release` takes a job's off. Without them nothing is forgotten.

    Attributes:
        pipeline: the video model.
        faces: the face models; None will do for videos without a photograph.
        model: the name or folder that the model was asked for by.
        folder: where its files lie.
        faces_folder: where the files of the face models lie.
        faces_given: whether that folder was named, rather than found.
    """

    pipeline: LikenessPipeline
    faces: FaceTools | None
    model: str
    folder: Path
    faces_folder: Path
    faces_given: bool = False
    _texts: dict[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict, init=False)
    _photographs: dict[str, dict[tuple, tuple[Reference, Tensor]]] = field(default_factory=dict, init=False)
    _uses: Counter[str] = field(default_factory=Counter, init=False)

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        method: str | None = None,
        device: str | None = None,
        faces: str | Path | None = None,
        on_convert: Callable[[int, int], None] | None = None,
        on_fetch: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> Studio:
        """Loads a model and the face models.

        Args:
            model: a known name or a folder in diffusers' layout.
            method: name of another method than the one that the weights were trained with.
            device: such as "cpu" or "cuda:0"; the best there is by default.
            faces: folder of the face models, see `likeness.faces.faces_folder`.
            on_convert: where published weights are converted first, is told how many tensors are done, and of how many.
            on_fetch: is entered with what is downloaded, while it is.

        Raises:
            UserError: an unknown model, method or device, or a folder that is broken.
        """
        if method is not None and method not in METHODS:
            raise UserError(f"There is no method {method!r}. Choose one of {', '.join(METHODS)}.")
        where = _device(device)
        folder = prepare(model, method, on_convert, on_fetch)
        pipeline = LikenessPipeline.from_pretrained(
            folder,
            method=None if method is None else METHODS[method],
            torch_dtype=torch.float32 if where.type == "cpu" else torch.bfloat16,
            device=where,
        )
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, load_faces(faces), str(model), folder, faces_folder(faces), faces is not None)

    def resolve(self, settings: Settings) -> Settings:
        """The settings with the model's own in place of None.

        Raises:
            UserError: a size that the model does not make.
        """
        config, guidance = self.pipeline.config, self.pipeline.method.guidance
        own = {
            "height": config["default_height"],
            "width": config["default_width"],
            "num_frames": config["default_num_frames"],
            "fps": float(config["default_fps"]),
            "num_inference_steps": config["default_num_inference_steps"],
            "text_guidance": guidance.text,
            "reference_guidance": guidance.reference,
        }
        resolved = replace(settings, **{name: own[name] for name in own if getattr(settings, name) is None})
        assert resolved.num_frames is not None and resolved.height is not None and resolved.width is not None
        self.pipeline.backbone.spec.check_size(resolved.num_frames, resolved.height, resolved.width)
        return resolved

    def recipe(self, job: Job) -> dict[str, Any]:
        """Everything that decides the bytes of a job's video, JSON-able. The job's settings must be resolved.

        Raises:
            UserError: a photograph that cannot be read, or references that the method was not made for.
        """
        self.pipeline.method.check_references(job.reference_kinds)
        device = self.pipeline.device
        return {
            "prompt": job.prompt,
            "settings": asdict(job.settings),
            "photographs": [self._digest(path) for path in job.references],
            "kinds": list(job.reference_kinds),
            "method": self.pipeline.method.to_dict(),
            "model": {
                f"{'base/' * depth}{name}": digest
                for depth, folder in enumerate(folders_of(self.folder))
                for name, digest in folder_hashes(folder).items()
            },
            "faces": folder_hashes(self.faces_folder) if job.references else {},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "dtype": str(self.pipeline.transformer.dtype).removeprefix("torch."),
            "software": software_versions(),
        }

    def names(self, beside: Path) -> dict[str, str | None]:
        """How a sidecar beside the file `beside` names the models: by name, else by a path relative to itself."""
        is_known = self.model in MODELS and not Path(self.model).is_dir()
        return {
            "model_name": self.model if is_known else None,
            "model_path": None if is_known else portable_path(self.folder, beside),
            "faces_path": portable_path(self.faces_folder, beside) if self.faces_given else None,
        }

    def expect(self, jobs: Sequence[Job]) -> None:
        """Announces jobs, so that what they share is kept as long as one of them needs it."""
        for job in jobs:
            self._uses.update(self._needs(job))

    def release(self, job: Job) -> None:
        """Takes back one announcement; what no other job needs is forgotten."""
        for need in self._needs(job):
            self._uses[need] -= 1
            if self._uses[need] <= 0:
                self._texts.pop(need, None)
                self._photographs.pop(need, None)

    def make(self, job: Job, on_step: Callable[[int, int], None] | None = None) -> Made:
        """Makes the video of a job whose settings are resolved.

        Args:
            on_step: is told the denoising steps done and their total.

        Raises:
            UserError: a photograph that cannot be used.
        """
        settings = job.settings
        assert settings.num_inference_steps is not None and settings.fps is not None
        shown = [
            self._photograph(path, kind, settings)
            for path, kind in zip(job.references, job.reference_kinds, strict=True)
        ]
        prompt, cut = self._text(job.prompt)
        # Without one the pipeline takes what the method dropped text to.
        negative, negative_cut = self._text(settings.negative_prompt) if settings.negative_prompt else (None, ())
        total = settings.num_inference_steps

        def after_step(_pipeline: Any, step: int, _timestep: float, _tensors: dict[str, Tensor]) -> None:
            if on_step is not None:
                on_step(step + 1, total)

        if on_step is not None:
            on_step(0, total)
        frames = self.pipeline(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            reference_latents=[latents for _, latents in shown],
            height=settings.height,
            width=settings.width,
            num_frames=settings.num_frames,
            fps=settings.fps,
            num_inference_steps=total,
            text_guidance=settings.text_guidance,
            reference_guidance=settings.reference_guidance,
            # On the CPU, so that the noise is the same on every device.
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            callback_on_step_end=after_step,
        ).frames[0]
        video = Video((frames * 255.0).round().astype(np.uint8), settings.fps)
        references = tuple(reference for reference, _ in shown)
        return Made(
            video=video,
            references=references,
            similarity=self._similarity(video, references),
            warnings=(*self._warnings(job, references), *cut, *negative_cut),
        )

    def _needs(self, job: Job) -> set[str]:
        """Keys of the caches: the prompt, and digests of the photographs that exist."""
        digests = set()
        for path in job.references:
            try:
                digests.add(self._digest(path))
            except UserError:
                continue  # told when the job's turn comes
        return {f"text {job.prompt}", *digests}

    def _digest(self, path: Path) -> str:
        try:
            return sha256_file(path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            read_picture(path)  # says what is wrong with it
            raise

    def _text(self, text: str) -> tuple[Tensor, tuple[str, ...]]:
        key = f"text {text}"
        if key not in self._texts:
            with _log_messages() as messages:
                embeds = self.pipeline.encode_prompts([text])
            self._texts[key] = (embeds, tuple(messages))
        return self._texts[key]

    def _photograph(self, path: Path, kind: ReferenceKind, settings: Settings) -> tuple[Reference, Tensor]:
        assert settings.height is not None and settings.width is not None
        if self.faces is None:
            raise UserError("A photograph needs face models. Name their folder with --faces.")
        variants = self._photographs.setdefault(self._digest(path), {})
        key = (kind, settings.height, settings.width, settings.require_face, settings.face_index)
        if key not in variants:
            try:
                picture, size = read_picture(path), (settings.height, settings.width)
                if kind == "face":
                    reference = self.faces.reference(
                        picture, *size, require_face=settings.require_face, face_index=settings.face_index
                    )
                else:
                    reference = whole_picture(picture, *size)
            except UserError as error:
                raise type(error)(f"{path}: {error}") from None
            variants[key] = (reference, self.pipeline.encode_reference(reference))
        return variants[key]

    def _similarity(self, video: Video, references: tuple[Reference, ...]) -> tuple[tuple[float | None, ...], ...]:
        """[M][F], the face of each frame that is most similar to each reference."""
        if self.faces is None or all(reference.embedding is None for reference in references):
            return tuple((None,) * video.num_frames for _ in references)
        pack = self.faces.pack
        found = [[pack.embed(frame, face) for face in pack.detect(frame)] for frame in video.frames]

        def best(embedding: np.ndarray | None, faces: list[np.ndarray | None]) -> float | None:
            if embedding is None:
                return None
            values = [pack.similarity(embedding, face) for face in faces if face is not None]
            return round(float(max(values)), 4) if values else None

        return tuple(tuple(best(reference.embedding, faces) for faces in found) for reference in references)

    def _warnings(self, job: Job, references: tuple[Reference, ...]) -> Iterator[str]:
        for path, reference in zip(job.references, references, strict=True):
            for warning in reference.warnings:
                yield f"{path.name}: {warning}"
        if not job.references:
            yield "There is no photograph, so the video shows nobody in particular."
        for noun, folder in (("The model", self.folder), ("The face models", self.faces_folder)):
            subject = trained_on(folder)
            if subject and not all(is_drawn(path) for path in job.references):
                yield (
                    f"{noun} {folder.name!r} {'has' if noun == 'The model' else 'have'} only ever seen {subject}, so a video from a "
                    "real photograph will not resemble the person. Use photographs from 'likeness world draw', or models that were "
                    "trained on real people."
                )


def trained_on(folder: Path) -> str | None:
    """What a model says that it has seen alone, such as "drawn people": the key `trained_on` in the head of its card
    (README.md), or in its model_index.json. None if it says nothing."""
    card, index = folder / "README.md", folder / "model_index.json"
    if card.is_file():
        head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
        found = head and re.search(r"^trained_on:\s*(.+?)\s*$", head[1], re.MULTILINE)
        if found:
            return found[1].strip("\"'")
    if index.is_file():
        return json.loads(index.read_text(encoding="utf-8")).get("trained_on")
    return None


def quieten_libraries() -> None:
    """Stops the bars and hints that libraries write to stderr while they load, for programs that tell of errors there."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("diffusers", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _device(name: str | None) -> torch.device:
    if name is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device {name!r}. Use cpu, cuda, cuda:1 or mps.") from None
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_there.get(device.type, False):
        raise UserError(f"The device {name!r} is not on this machine. Use --device cpu, or leave the option out.")
    return device


@contextmanager
def _log_messages() -> Iterator[list[str]]:
    """Warnings that the package logs meanwhile, such as that a prompt was cut."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("likeness")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
