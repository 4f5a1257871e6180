"""Whether the measure of copy-paste tells what was copied, on drawn people, where the truth is known.

`python -m likeness.recipes.copying --people 40 --output FIGURES.json` draws for each validation person a photograph, a second
picture with its own pose, expression, light and background, and all 16 mixtures in which some of the four are those of the
photograph. A mixture's truth is the set that was copied; each mixture is measured as a video of that one frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from likeness.evaluate.copying import COMPONENTS, Copying
from likeness.evaluate.faces_of import FaceAnalyser
from likeness.evaluate.statistics import bootstrap
from likeness.evaluate.types import Item, Sample
from likeness.faces import faces_folder
from likeness.media import atomic_write
from likeness.world import VALIDATION_PEOPLE, Clip, draw, photo_of

FIRST = VALIDATION_PEOPLE.start + 75_000
ATTRIBUTES = ("pose", "expression", "light", "background")
SUBSETS = tuple(frozenset(chosen) for count in range(5) for chosen in combinations(ATTRIBUTES, count))


def mixture(person: int, copied: frozenset[str]) -> Clip:
    """Photograph 1 of a person with some attributes of photograph 0; position, size and clothes stay its own."""
    source, target = photo_of(person, 0), photo_of(person, 1)
    noise = target.noise.copy()
    expressions, place = target.expressions, target.place
    if "pose" in copied:
        noise[1, 7:10] = source.noise[1, 7:10]
    if "expression" in copied:
        noise[1, [15, 20, 21]] = source.noise[1, [15, 20, 21]]  # its strength, and where the eyes look
        expressions = source.expressions
    if "light" in copied:
        noise[0, 12:20] = source.noise[0, 12:20]
    if "background" in copied:
        noise[0, :12] = source.noise[0, :12]
        place = source.place
    return replace(target, noise=noise, expressions=expressions, place=place)


@dataclass(frozen=True)
class Measured:
    """What the measure says of every mixture of every person.

    Attributes:
        components: ``float64 [N, 16, 4]``, people by SUBSETS by COMPONENTS; nan where a background cannot be compared.
        whole: ``float64 [N, 16]``, copy_paste.

    People whose face is missed in one of the pictures are left out.
    """

    components: np.ndarray
    whole: np.ndarray


def measure(people: Sequence[int], analyser: FaceAnalyser, *, size: int = 64, photo_size: int = 256) -> Measured:
    """Draw and measure all mixtures, frames of ``size`` px against photographs of ``photo_size`` px."""
    metric = Copying(analyser.weights, analyser)
    photographs = draw([photo_of(person, 0) for person in people], height=photo_size, width=photo_size).pixels[:, 0]
    rows = []
    for person, photograph in zip(people, photographs, strict=True):
        pictures = draw([mixture(person, copied) for copied in SUBSETS], height=size, width=size).pixels  # [16, 1, ...]
        rows += [metric.measure(_sample(video, photograph)).values for video in pictures]
    table = np.array([[_number(row.get(name)) for name in ("copy_paste", *COMPONENTS)] for row in rows])
    table = table.reshape(len(people), len(SUBSETS), -1)
    table = table[~np.isnan(table[:, :, 0]).any(axis=1)]
    return Measured(components=table[:, :, 1:], whole=table[:, :, 0])


def figures(measured: Measured) -> dict[str, object]:
    """Means by the number of attributes copied, and for each component how well it tells its own attribute.

    The area under the curve compares all mixtures with the attribute copied to all without; 0.5 is chance. Some pairs of
    photographs agree by chance (one of eight places, one of seven expressions), which no measure can tell from a copy.
    """
    counts = np.array([len(copied) for copied in SUBSETS])
    has = np.array([[name in copied for name in ATTRIBUTES] for copied in SUBSETS])  # [16, 4]
    by_count = {int(k): _interval(measured.whole[:, counts == k].mean(axis=1)) for k in range(5)}
    steps = [measured.whole[:, has[:, a]].mean(axis=1) - measured.whole[:, ~has[:, a]].mean(axis=1) for a in range(4)]
    tells = {
        component: {
            attribute: round(_area(measured.components[:, has[:, a], c], measured.components[:, ~has[:, a], c]), 3)
            for a, attribute in enumerate(ATTRIBUTES)
        }
        for c, component in enumerate(COMPONENTS)
    }
    return {
        "people": len(measured.whole),
        "copy_paste by attributes copied": by_count,
        "copy_paste gained by copying": {name: _interval(step) for name, step in zip(ATTRIBUTES, steps, strict=True)},
        "people whose full copy scores highest of 16": round(float((measured.whole.argmax(axis=1) == 15).mean()), 3),
        "people whose re-posed picture scores below the full copy": round(
            float((measured.whole[:, 0] < measured.whole[:, 15]).mean()), 3
        ),
        "area under the curve, component by attribute": tells,
    }


def _sample(video: np.ndarray, photograph: np.ndarray) -> Sample:
    item = Item(id="mixture", video=Path(), prompt="", references=(Path("photograph"),), people=(0,), group="")
    return Sample(item=item, frames=video, indices=np.arange(1), num_frames=1, fps=1.0, references=(photograph,))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _interval(values: np.ndarray) -> str:
    """Mean of a value a person ``[N]`` with its 95 % bootstrap interval."""
    return str(bootstrap(values, [str(person) for person in range(len(values))]))


def _area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a value of the first is above one of the second; ties count half."""
    above, below = positive[~np.isnan(positive)], np.sort(negative[~np.isnan(negative)])
    ranks = (np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")) / 2
    return float(ranks.mean() / len(below))


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--first", type=int, default=FIRST)
    parser.add_argument("--size", type=int, default=64, help="px of the frames")
    parser.add_argument("--faces", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    if not VALIDATION_PEOPLE.start <= arguments.first <= VALIDATION_PEOPLE.stop - arguments.people:
        parser.error(f"people {VALIDATION_PEOPLE.start} to {VALIDATION_PEOPLE.stop - 1} are for validation")
    people = range(arguments.first, arguments.first + arguments.people)
    analyser = FaceAnalyser.load(faces_folder(arguments.faces))
    text = json.dumps(figures(measure(people, analyser, size=arguments.size)), indent=2)
    print(text)
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
