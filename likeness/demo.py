"""`make demo`: draw somebody whom no model was trained on, and make a video of them from the photograph."""

from __future__ import annotations

import sys
from pathlib import Path

from likeness.errors import UserError
from likeness.threads import wait_passively

FOLDER = Path("outputs/demo")
PERSON = 800_001  # one of the people kept for validation
PROMPT = "A person turns the head to the left, smiling, on a beach, wearing a red shirt."
SEED = 0


def demo(folder: Path) -> dict[str, Path | float | None]:
    """Writes photograph.png, video.mp4, sheet.png and video.json into `folder`, the same bytes each time.

    Returns:
        The four paths, and under "similarity" the mean face similarity of the frames to the photograph.

    Raises:
        UserError: the tiny model is not installed, or the folder cannot be written.
    """
    from likeness.generate import Job, Settings
    from likeness.generate.run import run
    from likeness.generate.studio import Studio, quieten_libraries
    from likeness.sidecar import sidecar_path
    from likeness.world.folder import draw_photograph, write_photograph

    quieten_libraries()
    photograph, video, sheet = folder / "photograph.png", folder / "video.mp4", folder / "sheet.png"
    write_photograph(photograph, draw_photograph(PERSON))
    sidecar_path(video).unlink(missing_ok=True)  # a demonstration works each time, it does not keep what is finished
    job = Job(prompt=PROMPT, references=(photograph,), output=video, sheet=sheet, settings=Settings(seed=SEED))
    (outcome,) = run([job], Studio.open("tiny"), overwrite=True, on_step=_show_step)
    if outcome.error is not None:
        raise outcome.error
    return {
        "photograph": photograph,
        "video": video,
        "sheet": sheet,
        "sidecar": sidecar_path(video),
        "similarity": outcome.similarity,
    }


def _show_step(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rdenoising {done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of `python -m likeness.demo`."""
    wait_passively()
    print(f"person {PERSON} of the drawn world: {PROMPT}")
    try:
        made = demo(FOLDER)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    similarity = made.pop("similarity")
    for name, path in made.items():
        print(f"{name:10}  {path}")
    if similarity is not None:
        print(
            f"{'similarity':10}  {similarity:.2f} between the faces of the video and the photograph (0 is a stranger)"
        )
    print("Your own: likeness world draw --output people; likeness generate --help")


if __name__ == "__main__":
    main()
