"""The figures of the tiny family's model card, on people it was never trained on.

`python -m likeness.recipes.measure --model tiny --people 100 --output FIGURES.json` draws a photograph of each person, prepares it
as `likeness generate` does (found by the detector, aligned, parsed), generates a video for each of two prompts, and reads
identity off the videos with the recogniser and obedience with the probe. Intervals are 95 % bootstraps over people.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from likeness.faces import FaceTools, load_faces
from likeness.pipeline import LikenessPipeline
from likeness.recipes.faces.verification import mean_interval
from likeness.world import CLOTHES, EXPRESSIONS, PLACES, TURNS, VALIDATION_PEOPLE, clip_of, draw, prompt_for
from likeness.world.clip import Clip
from likeness.world.folder import draw_photograph
from likeness.world.probe import Probe, load_probe

_FIRST = VALIDATION_PEOPLE.start + 60_000  # the people of the card; earlier validation people are for tuning
_ASKED = 4  # the first of EXPRESSIONS: what prompts ask for
PARTS = ("reference", "another", "none", "clips")


@dataclass(frozen=True)
class Subject:
    """A person's photograph made ready: canvas uint8 [H, W, 3], embedding float32 [D]."""

    person: int
    canvas: np.ndarray
    embedding: np.ndarray


def subjects_of(people: list[int], faces: FaceTools, height: int, width: int) -> list[Subject]:
    """Photograph 0 of each person, prepared as `likeness generate` does it."""
    subjects = []
    for person in people:
        reference = faces.reference(draw_photograph(person), height, width)
        if reference.embedding is None:
            raise RuntimeError(f"the detector found no face in the photograph of person {person}")
        subjects.append(Subject(person, reference.canvas, reference.embedding))
    return subjects


def prompts_of(person: int, count: int) -> list[tuple[str, dict[str, int]]]:
    """`count` prompts of a person, and what the probe should read off their videos; drawn from the person's number."""
    rng = np.random.default_rng(person)
    prompts = []
    for _ in range(count):
        wanted = {
            "place": int(rng.integers(len(PLACES))),
            "turn": int(rng.choice([0, 1, 2, 3, 4])),
            "expression": int(rng.choice(_ASKED)),
            "shirt": int(rng.integers(len(CLOTHES))),
        }
        text = prompt_for(
            turn=TURNS[wanted["turn"]],
            expression=EXPRESSIONS[wanted["expression"]],
            place=wanted["place"],
            shirt=CLOTHES[wanted["shirt"]],
        )
        prompts.append((text, wanted))
    return prompts


def embed_video(frames: np.ndarray, faces: FaceTools) -> tuple[np.ndarray, int]:
    """Embeddings [F', D] of the frames uint8 [F, H, W, 3] that show a face, and F."""
    found = []
    for frame in frames:
        detected = faces.pack.detect(frame)
        if detected:
            found.append(faces.pack.embed(frame, detected[0]))
    return (np.stack(found) if found else np.zeros((0, 1), np.float32)), len(frames)


def interval(values: np.ndarray) -> list[float]:
    """Mean of per-person values [N] with its 95 % bootstrap interval, as `likeness evaluate` has it."""
    found = mean_interval(values)
    return [round(found.mean if value is None else value, 4) for value in (found.mean, found.low, found.high)]


def identity(videos: list[np.ndarray], owners: np.ndarray, gallery: np.ndarray, faces: FaceTools) -> dict[str, object]:
    """Identity of videos against a gallery.

    Args:
        videos: uint8 [F, H, W, 3] each.
        owners: int [V], each video's row in the gallery.
        gallery: embeddings [N, D] of photographs.

    A frame without a face counts 0 ("strict"); rank-1 takes the video's mean embedding.
    """
    own, others, rank1, coverage = [], [], [], []
    for video, owner in zip(videos, owners, strict=True):
        embeddings, frames = embed_video(video, faces)
        coverage.append(len(embeddings) / frames)
        if not len(embeddings):
            for figures in (own, others, rank1):
                figures.append(0.0)
            continue
        scores = embeddings @ gallery.T  # [F', N]
        own.append(scores[:, owner].sum() / frames)
        others.append(np.delete(scores, owner, 1).mean())
        rank1.append(float(scores.mean(0).argmax() == owner))

    def by_person(values: list[float]) -> np.ndarray:
        return np.array([np.mean(np.array(values)[owners == person]) for person in np.unique(owners)])

    return {
        "similarity to the own photograph": interval(by_person(own)),
        "similarity to others": interval(by_person(others)),
        f"rank-1 among {len(gallery)}": interval(by_person(rank1)),
        "frames with a face": interval(by_person(coverage)),
    }


def generate(
    pipeline: LikenessPipeline, prompts: list[str], canvases: list[np.ndarray] | None, arguments: argparse.Namespace
) -> list[np.ndarray]:
    """A video a prompt, uint8 [F, H, W, 3]; without canvases, of nobody in particular."""
    videos: list[np.ndarray] = []
    for start in range(0, len(prompts), 8):
        part = slice(start, start + 8)
        count = len(prompts[part])
        output = pipeline(
            prompts[part],
            [[canvas] for canvas in canvases[part]] if canvases is not None else (),
            num_inference_steps=arguments.steps,
            text_guidance=arguments.text_guidance,
            reference_guidance=arguments.reference_guidance if canvases is not None else None,
            generator=[torch.Generator().manual_seed(1000 + start + index) for index in range(count)],
        )
        videos += [np.rint(frames * 255).astype(np.uint8) for frames in output.frames]
    return videos


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """All rows of the card."""
    dtype = getattr(torch, arguments.dtype)
    pipeline = LikenessPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    faces, probe = load_faces(arguments.faces), load_probe(arguments.probe)
    height, width = pipeline.config.default_height, pipeline.config.default_width
    people = list(range(arguments.first, arguments.first + arguments.people))
    subjects = subjects_of(people, faces, height, width)
    gallery = np.stack([subject.embedding for subject in subjects])
    asked = [item for person in people for item in prompts_of(person, arguments.prompts)]
    prompts = [text for text, _ in asked]
    owners = np.repeat(np.arange(len(people)), arguments.prompts)
    canvases = [subjects[owner].canvas for owner in owners]

    figures: dict[str, object] = {
        "people": f"{people[0]} to {people[-1]}",
        "prompts a person": arguments.prompts,
        "steps": arguments.steps or pipeline.config.default_num_inference_steps,
    }
    if "reference" in arguments.parts:
        videos = generate(pipeline, prompts, canvases, arguments)
        figures["with the reference"] = identity(videos, owners, gallery, faces)
        figures["prompt obeyed"] = obedience(np.stack(videos), [wanted for _, wanted in asked], len(people), probe)
        if arguments.keep:
            np.savez_compressed(
                arguments.keep, videos=np.stack(videos), canvases=np.stack(canvases), prompts=np.array(prompts)
            )
    if "another" in arguments.parts:
        shuffled = [subjects[(owner + 1) % len(people)].canvas for owner in owners]
        videos = generate(pipeline, prompts, shuffled, arguments)
        figures["with another person's reference"] = identity(videos, owners, gallery, faces)
    if "none" in arguments.parts:
        videos = generate(pipeline, prompts, None, arguments)
        figures["without a reference"] = identity(videos, owners, gallery, faces)
    if "clips" in arguments.parts:
        clips = [clip_of(person, 0) for person in people]
        real = draw(clips, height=height, width=width).pixels
        psnr, decoded = reconstruction(pipeline, real)

        def shown(videos: np.ndarray) -> dict[str, object]:
            expression = {"expression as drawn": expression_read(videos, clips, probe)}
            return identity(list(videos), np.arange(len(people)), gallery, faces) | expression

        figures["drawn clips of the same people"] = shown(real)
        figures["VAE"] = {"PSNR, dB": psnr, **shown(decoded)}
    return figures


def obedience(videos: np.ndarray, wanted: list[dict[str, int]], people: int, probe: Probe) -> dict[str, list[float]]:
    """Share of videos uint8 [V, F, H, W, 3] in which the probe reads what the prompt asked for."""
    read = probe.read(videos)
    right = {
        name: read[name] == np.array([w[name] for w in wanted]) for name in ("place", "turn", "expression", "shirt")
    }
    right["place, turn and expression, mean"] = np.mean([right[name] for name in ("place", "turn", "expression")], 0)
    return {name: interval(values.reshape(people, -1).mean(1).astype(float)) for name, values in right.items()}


def expression_read(videos: np.ndarray, clips: list[Clip], probe: Probe) -> list[float]:
    """Share of clips uint8 [V, F, H, W, 3] whose expression the probe reads, of those with one that prompts ask for: no model whose
    videos look like these can be expected to obey more prompts."""
    drawn = np.array([clip.expressions[0] for clip in clips])
    right = probe.read(videos)["expression"] == drawn
    return interval(right[drawn < _ASKED].astype(float))


def reconstruction(pipeline: LikenessPipeline, videos: np.ndarray) -> tuple[list[float], np.ndarray]:
    """PSNR [dB] of clips uint8 [N, F, H, W, 3] coded and decoded, and the decoded clips."""
    backbone, psnr, decoded = pipeline.backbone, [], []
    with torch.no_grad():
        for video in videos:
            pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            back = backbone.decode(backbone.encode_video(pixels))
            psnr.append(float(-10 * torch.log10((back - pixels).square().mean() / 4)))
            decoded.append(((back[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
    return interval(np.array(psnr)), np.stack(decoded)


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--faces", type=Path, default=None)
    parser.add_argument("--probe", type=Path, default=Path(__file__).parents[1] / "world" / "weights" / "probe")
    parser.add_argument("--first", type=int, default=_FIRST)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--text-guidance", type=float, default=None)
    parser.add_argument("--reference-guidance", type=float, default=None)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="some of the figures; all by default")
    parser.add_argument("--keep", type=Path, default=None, help=".npz that gets the videos")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.first + arguments.people > VALIDATION_PEOPLE.stop or arguments.first < VALIDATION_PEOPLE.start:
        parser.error(f"people {VALIDATION_PEOPLE.start} to {VALIDATION_PEOPLE.stop - 1} are for validation")
    figures = measure(arguments)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.output:
        # Parts that were measured by other calls stay.
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        arguments.output.write_text(json.dumps({**before, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
