"""Jobs made one after the other: what is finished is kept, what fails is reported, what is written is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from likeness.errors import UserError
from likeness.faces import Reference
from likeness.generate.jobs import Job
from likeness.generate.studio import Made, Studio
from likeness.media import sha256_file, write_picture, write_video
from likeness.sheet import contact_sheet
from likeness.sidecar import (
    FORMAT,
    PROVENANCE,
    digest_of,
    is_finished,
    portable_path,
    read_sidecar,
    sidecar_path,
    write_json,
)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: "made", "kept" (it was finished before) or "failed" with its error."""

    job: Job
    status: Literal["made", "kept", "failed"]
    error: Exception | None = None
    similarity: float | None = None
    warnings: tuple[str, ...] = ()


def run(
    jobs: Sequence[Job],
    studio: Studio,
    *,
    overwrite: bool = False,
    on_start: Callable[[int, Job], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Makes every job that is not finished; a job that fails is reported and the next one goes on.

    Args:
        jobs: from `plan`.
        studio: the loaded model.
        overwrite: replace a video of the same name that was made otherwise; without it such a job fails.
        on_start: is told the index of the job that begins.
        on_step: is told the denoising steps done and their total.
        on_outcome: is told what became of each job.

    A KeyboardInterrupt passes through; what is finished by then is complete.
    """
    studio.expect(jobs)
    outcomes = []
    for index, job in enumerate(jobs):
        if on_start is not None:
            on_start(index, job)
        try:
            job = replace(job, settings=studio.resolve(job.settings))
            outcome = _run_one(job, studio, overwrite=overwrite, on_step=on_step)
        except Exception as error:
            outcome = Outcome(job, "failed", error=as_user_error(error, job))
        finally:
            studio.release(job)
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


def _run_one(job: Job, studio: Studio, *, overwrite: bool, on_step: Callable[[int, int], None] | None) -> Outcome:
    """`job` has its settings resolved."""
    recipe = studio.recipe(job)
    digest = digest_of(recipe)
    if is_finished(job.output, digest, job.sheet):
        record = read_sidecar(sidecar_path(job.output))
        return Outcome(job, "kept", similarity=record["similarity"]["mean"], warnings=tuple(record["warnings"]))
    if not overwrite:
        _refuse_to_replace(job, digest)
    made = studio.make(job, on_step)
    similarity = _write(job, recipe, digest, made, studio)
    return Outcome(job, "made", similarity=similarity, warnings=made.warnings)


def _write(job: Job, recipe: dict[str, Any], digest: str, made: Made, studio: Studio) -> float | None:
    """The three files, the sidecar last; returns the mean similarity."""
    # The digest in the file lets a later run tell a video of its own, cut short before the sidecar, from somebody's.
    write_video(job.output, made.video, metadata={"comment": f"{PROVENANCE} Job {digest}."})
    if job.sheet is not None:
        write_picture(job.sheet, contact_sheet(made.video, made.references, made.similarity, title=job.prompt))
    known = [value for frames in made.similarity for value in frames if value is not None]
    mean = round(sum(known) / len(known), 4) if known else None
    record = {
        "format": FORMAT,
        "provenance": PROVENANCE,
        "video": job.output.name,
        "sha256": sha256_file(job.output),
        "sheet": None if job.sheet is None else job.sheet.name,
        "job": digest,
        **studio.names(job.output),
        **recipe,
        "references": [
            {"path": portable_path(path, job.output), "sha256": sha256, "kind": kind, **_about(reference)}
            for path, sha256, kind, reference in zip(
                job.references, recipe["photographs"], job.reference_kinds, made.references, strict=True
            )
        ],
        "similarity": {"mean": mean, "frames": made.similarity},
        "warnings": made.warnings,
    }
    write_json(sidecar_path(job.output), record)
    return mean


def _about(reference: Reference) -> dict[str, Any]:
    face = reference.face
    return {
        "face": None
        if face is None
        else {"box_px": [round(float(x), 1) for x in face.box], "score": round(float(face.score), 3)},
        "num_faces": reference.num_faces,
        "background_blanked": reference.parsed,
    }


def as_user_error(error: Exception, job: Job) -> Exception:
    """The error with a way out where there is one: memory that ran out, a file system that refused. Others stay what they are."""
    text = str(error)
    is_memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "not enough memory" in text or "can't allocate memory" in text)
    )
    if is_memory:
        size = job.settings  # not resolved if the model itself did not fit
        frames = (
            f" ({size.num_frames} frames of {size.width} x {size.height} px)" if size.num_frames and size.width else ""
        )
        return UserError(
            f"The memory ran out while {job.output.name} was being made{frames}. Lower --num-frames, --height or --width, "
            "close other programs, or use a smaller --model or a larger --device."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(f"{error.filename}: {error.strerror}. Check the path and its permissions.")
    return error


def failures_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """The failed jobs as JSON-able records."""
    return [
        {
            "where": outcome.job.where,
            "key": outcome.job.key,
            "prompt": outcome.job.prompt,
            "references": [path.as_posix() for path in outcome.job.references],
            "output": outcome.job.output.name,
            "error": " ".join(str(outcome.error).split()),
        }
        for outcome in outcomes
        if outcome.status == "failed"
    ]


def _refuse_to_replace(job: Job, digest: str) -> None:
    """What the same job has left behind, finished or cut short, may be replaced; anything else is somebody's."""
    if job.output.is_file() and digest.encode() in job.output.read_bytes():
        return
    for path in (job.output, sidecar_path(job.output), job.sheet):
        if path is not None and path.exists():
            raise UserError(
                f"The file {path} is there already and was made otherwise. Give --overwrite to replace it, or another "
                "--output."
            )
