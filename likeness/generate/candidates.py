"""The best of several seeds: candidates are made, measured as `likeness evaluate` measures them, and the best is kept.

The candidates of `video.mp4` lie in `video_candidates/seed<N>.mp4`, each a whole job of its own, so a stopped choice goes
on where it was. The best becomes `video.mp4`, byte for byte what its seed alone would have given; its sidecar has the
scores of all under `candidates` besides. The other files are then removed, unless they were asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from likeness.errors import UserError
from likeness.evaluate.decode import read_frames
from likeness.evaluate.identity import FaceSim, facesim_arc_strict
from likeness.evaluate.people import People, people
from likeness.evaluate.run_folder import CANDIDATES_SUFFIX
from likeness.evaluate.types import Backends, Item, Sample
from likeness.generate.jobs import Job, check_choice
from likeness.generate.one import Outcome, refuse_to_replace, run_one
from likeness.generate.studio import Studio
from likeness.media import atomic_write, read_picture
from likeness.sidecar import digest_of, is_finished, portable_path, read_sidecar, sidecar_path, write_json


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a candidate is worth.

    Attributes:
        seed: that it was made with.
        score: mean cosine of the face to the photograph over the frames, -1..1; a frame without the face counts 0.
        sha256: of the video.
    """

    seed: int
    score: float
    sha256: str


class IdentityJudge:
    """Scores candidates by FaceSim-Arc, strict; where several people were asked for, by each one's own face in each frame.

    Raises:
        CheckpointError: face models without a recogniser, or a folder without face models.
    """

    def __init__(self, faces: Path) -> None:
        backends = Backends(faces=faces)
        self._one: FaceSim = facesim_arc_strict(backends)
        self._several: People = people(backends)

    def metric(self, job: Job) -> FaceSim | People:
        """What a job's candidates are measured by."""
        return self._one if len(job.faces) == 1 else self._several

    def check(self, job: Job) -> None:
        """Looks for the face of each photograph, before hours are spent on candidates that nothing could be compared with.

        Raises:
            UserError: a photograph without a face, or one that cannot be read.
        """
        for path in job.faces:
            if not self._one.analyser.look(read_picture(path)):
                raise UserError(
                    f"No face is found in the photograph {path}, so candidates cannot be chosen by identity. Give another "
                    "photograph, or leave --candidates out."
                )

    def score(self, job: Job, video: Path) -> float:
        """The score of a candidate, read from its file as anybody would who evaluates it."""
        metric = self.metric(job)
        decoded = read_frames(video, metric.indices)
        item = Item(
            id=video.stem,
            video=video,
            prompt=job.prompt,
            references=job.faces,
            people=tuple(range(len(job.faces))),
            group=video.stem,
        )
        sample = Sample(
            item=item,
            frames=decoded.frames,
            indices=decoded.indices,
            num_frames=decoded.num_frames,
            fps=decoded.fps,
            references=tuple(read_picture(path) for path in job.faces),
        )
        result = metric.measure(sample)
        value = result.values.get("facesim_arc" if metric is self._one else "people_arc")
        if value is None:
            raise UserError(f"{video.name} cannot be scored: {result.reason or result.status}.")
        return value


def choose(
    job: Job,
    studio: Studio,
    judge: IdentityJudge,
    *,
    overwrite: bool,
    on_step: Callable[[int, int], None] | None,
) -> Outcome:
    """Makes the candidates of a job whose settings are resolved, and the best of them its video. Ties go to the lowest seed.

    Raises:
        UserError: no photograph to choose by, or files of another job in the way.
    """
    assert job.choice is not None
    check_choice(job)
    candidates = [_candidate(job, number) for number in range(job.choice.num)]
    recipes = [studio.recipe(candidate) for candidate in candidates]
    metric = judge.metric(job)
    measured = {"metric": metric.name, "protocol": metric.protocol, "weights": metric.weights}
    digest = digest_of({**recipes[0], "candidates": {"num": job.choice.num, "select": job.choice.select, **measured}})
    left_behind = _left_behind(job, digest)
    if left_behind and (record := _finished(job, candidates, recipes)) is not None:
        told = _told(record["candidates"]["scores"], record["settings"]["seed"])
        return Outcome(
            job, "kept", similarity=record["similarity"]["mean"], warnings=tuple(record["warnings"]), told=told
        )
    if not overwrite:
        # A choice that was cut short has left the video of one of its candidates, without a sidecar.
        refuse_to_replace(job, [digest_of(recipe) for recipe in recipes] if left_behind else [])
    judge.check(job)
    outcomes, scores = [], []
    for number, candidate in enumerate(candidates):
        outcomes.append(
            run_one(candidate, studio, overwrite=overwrite, on_step=_part(on_step, number, len(candidates)))
        )
        sha256 = read_sidecar(sidecar_path(candidate.output))["sha256"]
        score = judge.score(job, candidate.output)
        scores.append(Score(seed=candidate.settings.seed, score=score, sha256=sha256))
    best = max(range(len(scores)), key=lambda number: (scores[number].score, -number))
    listed = [asdict(score) for score in scores]
    chosen = {"job": digest, "select": job.choice.select, **measured, "scores": listed}
    _promote(candidates[best], job, studio, chosen)
    if not job.choice.keep:
        _remove(candidates)
    return Outcome(
        job,
        "made",
        similarity=outcomes[best].similarity,
        warnings=tuple(dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings)),
        told=_told(listed, scores[best].seed),
    )


def _candidate(job: Job, number: int) -> Job:
    seed = job.settings.seed + number
    output = job.output.with_name(f"{job.output.stem}{CANDIDATES_SUFFIX}") / f"seed{seed}{job.output.suffix}"
    sheet = None if job.sheet is None else output.with_suffix(".png")
    return replace(job, output=output, sheet=sheet, settings=replace(job.settings, seed=seed), choice=None)


def _left_behind(job: Job, digest: str) -> bool:
    """Whether this choice, and no other job, may have written the files where the job's are to be."""
    path = sidecar_path(job.output)
    if not path.exists():
        return True
    try:
        return (read_sidecar(path).get("candidates") or {}).get("job") == digest
    except UserError:
        return False


def _finished(job: Job, candidates: Sequence[Job], recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sidecar of a choice that needs nothing more; None otherwise."""
    assert job.choice is not None
    if not sidecar_path(job.output).exists():
        return None
    record = read_sidecar(sidecar_path(job.output))
    if not is_finished(job.output, record["job"], job.sheet):
        return None
    are_kept = all(
        is_finished(candidate.output, digest_of(recipe), candidate.sheet)
        for candidate, recipe in zip(candidates, recipes, strict=True)
    )
    return record if are_kept or not job.choice.keep else None


def _part(on_step: Callable[[int, int], None] | None, number: int, count: int) -> Callable[[int, int], None] | None:
    """Steps of one candidate as steps of all."""
    if on_step is None:
        return None
    return lambda done, total: on_step(number * total + done, count * total)


def _promote(candidate: Job, job: Job, studio: Studio, chosen: Mapping[str, Any]) -> None:
    """Copies the files of a candidate to where the job wants them, the sidecar last, with paths as seen from there."""
    with atomic_write(job.output) as temporary:
        shutil.copyfile(candidate.output, temporary)
    if job.sheet is not None and candidate.sheet is not None:
        with atomic_write(job.sheet) as temporary:
            shutil.copyfile(candidate.sheet, temporary)
    record = read_sidecar(sidecar_path(candidate.output))
    references = [
        {**entry, "path": portable_path(path, job.output)}
        for entry, path in zip(record["references"], job.references, strict=True)
    ]
    moved = {
        "video": job.output.name,
        "sheet": None if job.sheet is None else job.sheet.name,
        **studio.names(job.output),
        "references": references,
    }
    write_json(sidecar_path(job.output), {**record, **moved, "candidates": chosen})


def _remove(candidates: Sequence[Job]) -> None:
    """Removes the files of candidates, the sidecars first, and their folder unless something else lies in it."""
    for candidate in candidates:
        for path in (sidecar_path(candidate.output), candidate.output, candidate.sheet):
            if path is not None:
                path.unlink(missing_ok=True)
    folder = candidates[0].output.parent
    if not any(folder.iterdir()):
        folder.rmdir()


def _told(scores: Sequence[Mapping[str, Any]], seed: int) -> str:
    values = [score["score"] for score in scores]
    return f"seed {seed} of {len(values)} candidates, identity {max(values):.2f} (the others from {min(values):.2f})"
