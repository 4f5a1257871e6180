"""Jobs made one after the other: what is finished is kept, what fails is reported, what is written is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from likeness.errors import UserError
from likeness.generate.candidates import IdentityJudge, choose
from likeness.generate.jobs import Job
from likeness.generate.one import Outcome, run_one
from likeness.generate.studio import Studio


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

    Raises:
        CheckpointError: candidates are to be chosen, and the face models cannot compare faces.
    """
    judge = IdentityJudge(studio.faces_folder) if any(job.choice is not None for job in jobs) else None
    studio.expect(jobs)
    outcomes = []
    for index, job in enumerate(jobs):
        if on_start is not None:
            on_start(index, job)
        try:
            job = replace(job, settings=studio.resolve(job.settings))
            if job.choice is None or judge is None:
                outcome = run_one(job, studio, overwrite=overwrite, on_step=on_step)
            else:
                outcome = choose(job, studio, judge, overwrite=overwrite, on_step=on_step)
        except Exception as error:
            outcome = Outcome(job, "failed", error=as_user_error(error, job))
        finally:
            studio.release(job)
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


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
