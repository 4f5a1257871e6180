"""Trains the probe that reads place, turn, expression and shirt off a drawn video.

    python -m likeness.recipes.faces.probe --output DIR --cache DIR --minutes 4 --seed 0

Writes DIR/probe.safetensors, DIR/config.json and a model card.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from likeness.recipes.faces import augment
from likeness.recipes.faces.common import Arguments, Clock, prefetched, recipe_arguments, record_figures, start
from likeness.recipes.faces.data import DrawnSet, training_clips, validation_clips
from likeness.recipes.faces.verification import mean_interval
from likeness.train.optimiser import MovingAverage, Optimiser
from likeness.world.clip import TURNS
from likeness.world.probe import VOCABULARIES, ProbeConfig, ProbeNetwork, load_probe, save_probe

_INTRODUCTION = """# Probe of drawn videos

Reads off a video of a drawn person what a prompt of `likeness.world` can ask for, to check that it was obeyed: place,
turn of the head, expression, colour of the shirt, man or woman; and yaw, pitch and roll in six frames. It was trained on
the truth of drawn clips of people 0 to 799,999 and never on generated videos; the figures are of validation people.
It is an instrument of measurement: no model is trained against it. Load it with `likeness.world.probe.load_probe`.
"""
_MIRRORED = np.array([{"left": "right", "right": "left"}.get(turn, turn) for turn in TURNS])
_MIRRORED_TURN = torch.tensor([TURNS.index(turn) for turn in _MIRRORED])


@dataclass(frozen=True)
class ProbeRecipe:
    """Everything that decides the outcome besides seed and minutes."""

    num_people: int = 8000
    batch: int = 48
    rate: float = 3e-3
    pose_weight: float = 4.0
    smoothing: float = 0.02


def batch_of(
    clips: DrawnSet, index: np.ndarray, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Augmented frames [B, 6, 3, 64, 64] in [-1, 1], the true answers int64 [B], and the pose [B, 6, 3]."""
    pixels = torch.from_numpy(clips.pixels[index]).permute(0, 1, 4, 2, 3).float()  # [B, F, 3, H, W]
    truth = {
        "place": torch.from_numpy(clips.place[index]),
        "turn": torch.from_numpy(clips.turn[index, 0]),
        "expression": torch.from_numpy(clips.expression[index, 0]),
        "shirt": torch.from_numpy(clips.clothes[index, 0]),
        "gender": torch.from_numpy(clips.woman[index, 0]),
    }
    pose = torch.from_numpy(clips.pose[index, :, 0])
    mirrored = torch.rand(len(index), generator=generator) < 0.5
    pixels = torch.where(mirrored.view(-1, 1, 1, 1, 1), pixels.flip(4), pixels)
    truth["turn"] = torch.where(mirrored, _MIRRORED_TURN[truth["turn"]], truth["turn"])
    pose = torch.where(mirrored.view(-1, 1, 1), pose * torch.tensor([-1.0, 1.0, -1.0]), pose)
    # A whole clip is shifted and tinted alike, as a generated one would be; its frames are degraded one by one.
    batch, frames = pixels.shape[:2]
    dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
    shifted = F.pad(pixels.flatten(0, 1), (3, 3, 3, 3), mode="replicate")[:, :, 3 + dy : 67 + dy, 3 + dx : 67 + dx]
    columns = shifted.view(batch, frames, 3, 64, 64).transpose(1, 2).reshape(batch, 3, frames * 64, 64)
    tinted = augment.recolour(columns, generator, strength=0.3).view(batch, 3, frames, 64, 64).transpose(1, 2)
    degraded = augment.degrade(tinted.reshape(-1, 3, 64, 64), generator).view(batch, frames, 3, 64, 64)
    return degraded / 127.5 - 1, truth, pose


def train(clips: DrawnSet, recipe: ProbeRecipe, arguments: Arguments) -> ProbeNetwork:
    """Trains for `arguments.minutes` and returns the averaged network in eval mode."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    network = ProbeNetwork(ProbeConfig())
    optimiser = Optimiser(network, rate=recipe.rate)
    average = MovingAverage(network)
    clock = Clock(arguments, "probe")
    chosen = (torch.randint(len(clips), (recipe.batch,), generator=generator).numpy() for _ in itertools.count())
    for pixels, truth, pose in prefetched(batch_of(clips, index, generator) for index in chosen):
        if clock.progress >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16):
            logits, found_pose = network(pixels)
        losses = {
            name: F.cross_entropy(logits[name].float(), truth[name], label_smoothing=recipe.smoothing)
            for name in VOCABULARIES
        }
        losses["pose"] = recipe.pose_weight * F.smooth_l1_loss(found_pose.float(), pose, beta=0.05)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step(clock.progress)
        average.update(network)
        clock.tick(len(pixels), **{name: float(value.detach()) for name, value in losses.items()})
    average.copy_to(network)
    return network.eval()


def evaluate(folder: Path, clips: DrawnSet) -> dict[str, object]:
    """Accuracy of the stored probe on validation clips, with intervals over people."""
    found = load_probe(folder).read(np.asarray(clips.pixels))
    truth = {
        "place": clips.place,
        "turn": clips.turn[:, 0],
        "expression": clips.expression[:, 0],
        "shirt": clips.clothes[:, 0],
        "gender": clips.woman[:, 0],
    }
    figures: dict[str, object] = {f"{name}, accuracy": str(mean_interval(found[name] == truth[name])) for name in truth}
    asked = np.stack([found[name] == truth[name] for name in ("place", "turn", "expression")])
    figures["place, turn and expression, mean accuracy"] = str(mean_interval(asked.mean(0)))
    error = np.abs(found["pose"] - clips.pose[:, :, 0]).mean((0, 1))
    figures["pose, mean error"] = "yaw {:.3f}, pitch {:.3f}, roll {:.3f} rad".format(*error)
    return figures


def main() -> None:
    """Trains, writes, measures."""
    arguments = recipe_arguments(__doc__, minutes=4)
    start(arguments)
    recipe = ProbeRecipe()
    network = train(training_clips(arguments.cache, recipe.num_people), recipe, arguments)
    save_probe(network, arguments.output)
    figures = evaluate(arguments.output, validation_clips(arguments.cache))
    record_figures(arguments, "probe", network, figures, introduction=_INTRODUCTION, record="training.json")


if __name__ == "__main__":
    main()
