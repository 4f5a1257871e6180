"""One job made: the video, its sheet and its sidecar, unless they are there already."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
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
    """What became of a job: "made", "kept" (it was finished before) or "failed" with its error; `told` is what else to say."""

    job: Job
    status: Literal["made", "kept", "failed"]
    error: Exception | None = None
    similarity: float | None = None
    warnings: tuple[str, ...] = ()
    told: str = ""


def run_one(job: Job, studio: Studio, *, overwrite: bool, on_step: Callable[[int, int], None] | None) -> Outcome:
    """Makes one video whose settings are resolved, unless it is finished.

    Raises:
        UserError: a photograph that cannot be used, or a file of another job in the way.
    """
    recipe = studio.recipe(job)
    digest = digest_of(recipe)
    if is_finished(job.output, digest, job.sheet):
        record = read_sidecar(sidecar_path(job.output))
        return Outcome(job, "kept", similarity=record["similarity"]["mean"], warnings=tuple(record["warnings"]))
    if not overwrite:
        refuse_to_replace(job, [digest])
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


def refuse_to_replace(job: Job, digests: Collection[str]) -> None:
    """Raises where a file of the job is there already, unless one of the jobs with these digests has left it behind.

    Raises:
        UserError: the file is somebody's.
    """
    if job.output.is_file():
        data = job.output.read_bytes()
        if any(digest.encode() in data for digest in digests):
            return
    for path in (job.output, sidecar_path(job.output), job.sheet):
        if path is not None and path.exists():
            raise UserError(
                f"The file {path} is there already and was made otherwise. Give --overwrite to replace it, or another "
                "--output."
            )
