"""`likeness generate`: photographs and a prompt in, a video out; or a whole batch of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from likeness.cli._group import print_line
from likeness.cli._outcomes import Teller, conclude, tell_changes, title
from likeness.errors import UserError

if TYPE_CHECKING:
    from likeness.batch import BatchItem
    from likeness.generate import Choice, Settings
    from likeness.generate.one import Outcome
    from likeness.method import ReferenceKind

_MODEL, _LOOK, _FACE, _CHOICE, _RUN = "Model", "Video", "Photograph", "Choosing", "Run"


def generate(
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            "-r",
            help="Photograph of the person. Repeat it for several photographs or people.",
            rich_help_panel=_FACE,
        ),
    ] = None,
    clothing: Annotated[
        list[Path] | None,
        typer.Option(help="Picture of what the person wears, for models made for it.", rich_help_panel=_FACE),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(help="Picture of the place, for models made for it.", rich_help_panel=_FACE),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What happens in the video: a text, or a text file.")
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            help="Many videos with one load of the model: a text file with lines of prompt@@photo@@photo... or key@@prompt@@photo..., "
            "Concat-ID or OpenS2V JSON, or JSON lines."
        ),
    ] = None,
    sidecar: Annotated[
        Path | None, typer.Option("--from", help="Make a video again from its .json file; other options override it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .mp4 file, or a folder (default: outputs).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A name from `likeness models`, or a model folder (default: tiny).",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Another conditioning method than the model was trained with.", rich_help_panel=_MODEL),
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Folder of the face models (default: the model's own).", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps (default: the best there is).", rich_help_panel=_MODEL)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The noise the video starts from (default: 0).", rich_help_panel=_LOOK)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", "--num-inference-steps", help="Denoising steps (default: the model's).", rich_help_panel=_LOOK
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Height in px (default: the model's).", rich_help_panel=_LOOK)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width in px (default: the model's).", rich_help_panel=_LOOK)
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames (default: the model's).", rich_help_panel=_LOOK)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second (default: the model's).", rich_help_panel=_LOOK)
    ] = None,
    text_guidance: Annotated[
        float | None,
        typer.Option(
            "--text-guidance",
            "--guidance-scale",
            help="How strongly the prompt pulls (default: the method's).",
            rich_help_panel=_LOOK,
        ),
    ] = None,
    reference_guidance: Annotated[
        float | None,
        typer.Option(help="How strongly the photograph pulls (default: the method's).", rich_help_panel=_LOOK),
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What should not be in the video.", rich_help_panel=_LOOK)
    ] = None,
    face_index: Annotated[
        int | None,
        typer.Option(
            help="Which face of the photograph, counted from the left, 0 first (default: the largest).",
            rich_help_panel=_FACE,
        ),
    ] = None,
    require_face: Annotated[
        bool | None,
        typer.Option(
            "--require-face",
            help="Refuse a photograph without a face, instead of using the whole picture.",
            rich_help_panel=_FACE,
        ),
    ] = None,
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference", help="A video of nobody in particular, from the prompt alone.", rich_help_panel=_FACE
        ),
    ] = False,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="Make so many videos, with the seeds from --seed on, and keep the best.", rich_help_panel=_CHOICE
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="What the best candidate is: identity, the likeness to the photographs (default: identity).",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    keep_candidates: Annotated[
        bool,
        typer.Option("--keep-candidates", help="Keep the other candidates as well.", rich_help_panel=_CHOICE),
    ] = False,
    no_sheet: Annotated[
        bool, typer.Option("--no-sheet", help="No contact sheet beside the video.", rich_help_panel=_RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace videos that were made otherwise.", rich_help_panel=_RUN)
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print the paths of the results and errors only.", rich_help_panel=_RUN),
    ] = False,
) -> None:
    """Make a video of the person in the photograph doing what the prompt says.

    Writes the video, a .json file with everything needed to make it again, and a contact sheet (.png). The same seed gives the same bytes.

    likeness generate --reference ann.jpg --prompt "a woman laughs in the snow" --output ann.mp4
    """
    given = {
        "seed": seed,
        "num_inference_steps": steps,
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "fps": fps,
        "text_guidance": text_guidance,
        "reference_guidance": reference_guidance,
        "negative_prompt": negative_prompt,
        "method": method,
        "face_index": face_index,
        "require_face": require_face,
    }
    pictures: dict[ReferenceKind, list[Path]] = {
        "face": reference or [],
        "clothing": clothing or [],
        "background": background or [],
    }
    request = _request(
        prompt, pictures, batch, sidecar, no_reference, {k: v for k, v in given.items() if v is not None}
    )
    outcomes = _make(
        request,
        model=model or request.model,
        output=output or request.output,
        faces=faces or request.faces,
        device=device,
        choice=_choice(candidates, select, keep_candidates),
        sheet=not no_sheet,
        overwrite=overwrite,
        quiet=quiet,
    )
    conclude(outcomes, output or request.output, is_batch=request.is_batch)


@dataclass(frozen=True)
class _Request:
    """What the options ask for, before it is planned. A batch tells of its failures in a table and a file, a single video in one line."""

    items: list[BatchItem]
    settings: Settings
    is_batch: bool
    model: str = "tiny"
    faces: Path | None = None
    output: Path = Path("outputs")
    record: dict[str, Any] | None = None


def _request(
    prompt: str | None,
    pictures: dict[ReferenceKind, list[Path]],
    batch: Path | None,
    sidecar: Path | None,
    no_reference: bool,
    given: dict[str, Any],
) -> _Request:
    from likeness.batch import BatchItem, read_batch
    from likeness.generate import Settings, prompt_text, recall

    references = tuple(path for paths in pictures.values() for path in paths)
    kinds: tuple[ReferenceKind, ...] = tuple(kind for kind, paths in pictures.items() for _ in paths)
    if batch is not None:
        if prompt is not None or references or sidecar is not None or no_reference:
            raise UserError(
                "--batch brings its own prompts and photographs. Leave out --prompt, --reference, --no-reference and --from."
            )
        return _Request(read_batch(batch), Settings(**given), is_batch=True)
    if references and no_reference:
        raise UserError("--reference and --no-reference contradict each other. Give one of them.")
    if sidecar is not None:
        made = recall(sidecar)
        if not references and not no_reference:
            references, kinds = made.references(), made.kinds
        item = BatchItem(made.prompt if prompt is None else prompt_text(prompt), references, str(sidecar), kinds=kinds)
        return _Request(
            [item],
            replace(made.settings, **given),
            is_batch=False,
            model=made.model,
            faces=made.faces,
            output=made.output,
            record=made.record,
        )
    if prompt is None:
        raise UserError("There is no prompt. Say what happens in the video with --prompt, or give a --batch file.")
    if not references and not no_reference:
        raise UserError(
            "There is no photograph. Give one with --reference, or --no-reference for a video of nobody in particular."
        )
    item = BatchItem(prompt_text(prompt), references, "", kinds=kinds)
    return _Request([item], Settings(**given), is_batch=False)


def _choice(candidates: int | None, select: str | None, keep: bool) -> Choice | None:
    from likeness.generate import Choice

    if candidates is not None:
        return Choice(num=candidates, select=select or "identity", keep=keep)
    if select is not None or keep:
        raise UserError("--select and --keep-candidates choose among several videos. Say how many with --candidates.")
    return None


def _make(
    request: _Request,
    *,
    model: str,
    output: Path,
    faces: Path | None,
    device: str | None,
    choice: Choice | None,
    sheet: bool,
    overwrite: bool,
    quiet: bool,
) -> list[Outcome]:
    """Plans, loads and runs. What can be refused is refused before anything heavy is imported."""
    from likeness.cli._progress import Bar, Preparing
    from likeness.generate import check_photographs, plan

    jobs = plan(request.items, output, request.settings, sheet=sheet, choice=choice)
    if not request.is_batch:
        check_photographs(jobs[0])
    with Bar("loading the model", quiet=quiet) as bar:
        teller = Teller(bar, is_batch=request.is_batch, quiet=quiet)
        try:
            from likeness.generate.run import as_user_error, run
            from likeness.generate.studio import Studio, quieten_libraries

            quieten_libraries()
            try:
                preparing = Preparing(bar, quiet=quiet)
                studio = Studio.open(
                    model,
                    method=request.settings.method,
                    device=device,
                    faces=faces,
                    on_convert=preparing.converted,
                    on_fetch=preparing.fetching,
                )
            except Exception as error:
                raise as_user_error(error, jobs[0]) from error
            if request.record is not None and not quiet:
                with bar.aside():
                    tell_changes(request.record, studio, jobs[0])
            run(
                jobs,
                studio,
                overwrite=overwrite,
                on_start=lambda index, job: bar.restart(title(index, len(jobs), job)),
                on_step=bar.update,
                on_outcome=teller,
            )
        except KeyboardInterrupt:
            num_done = sum(outcome.status != "failed" for outcome in teller.outcomes)
            told = f"{num_done} of {len(jobs)} videos are finished; the same command goes on from there"
            print_line("interrupted", told)
            raise
    return teller.outcomes
