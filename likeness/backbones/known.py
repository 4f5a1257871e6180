"""Models and published weights that have names: what they are, where they come from and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HUGGING_FACE = "the Hugging Face Hub"
_WORLD_WEIGHTS = Path(__file__).parents[1] / "world" / "weights"


@dataclass(frozen=True)
class KnownModel:
    """A model that has a name.

    Attributes:
        description: one line for a list of models.
        repo: on the Hugging Face Hub; None for a model in this package.
        folder: in this package; None for a model on the Hub.
        licence: of the weights, as an SPDX identifier or in words.
        parameters: of the transformer, e.g. "1.3 B"; empty where it is not worth saying.
        methods: names of those that it was trained with, or as a base can be trained with.
    """

    description: str
    repo: str | None = None
    folder: Path | None = None
    licence: str = "see its page"
    parameters: str = ""
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownWeights:
    """A published transformer that has to be converted before use.

    Attributes:
        description: one line for a list of models.
        method: name of the method that it was trained with.
        base: key of :data:`MODELS`, whose other parts it works with.
        repo: on the hub.
        file: in that repository; empty where the name is not published and the folder has to be looked at.
        licence: as for a model.
        hub: where the repository is; weights are fetched from the Hugging Face Hub alone.
    """

    description: str
    method: str
    base: str
    repo: str
    file: str
    licence: str = "see its page"
    hub: str = HUGGING_FACE


_WAN_METHODS = ("concat-id", "concat-id-wan", "concat-id-wan-adaln", "st-drc")

MODELS: dict[str, KnownModel] = {
    "tiny": KnownModel(
        "drawn people, 64x64, on a CPU in seconds; comes with the package",
        folder=_WORLD_WEIGHTS / "tiny",
        licence="Apache-2.0",
        methods=("concat-id",),
    ),
    "tiny-st-drc": KnownModel(
        "drawn people by ST-DRC; its VAE and text encoder are tiny's",
        folder=_WORLD_WEIGHTS / "tiny-st-drc",
        licence="Apache-2.0",
        methods=("st-drc",),
    ),
    "tiny-two": KnownModel(
        "two drawn people in a video; a LoRA of tiny",
        folder=_WORLD_WEIGHTS / "tiny-two",
        licence="Apache-2.0",
        methods=("concat-id",),
    ),
    "wan2.1-1.3b": KnownModel(
        "Wan 2.1 text-to-video: a base to train on",
        repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        licence="Apache-2.0",
        parameters="1.3 B",
        methods=_WAN_METHODS,
    ),
    "wan2.1-14b": KnownModel(
        "Wan 2.1 text-to-video: a base to train on",
        repo="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        licence="Apache-2.0",
        parameters="14 B",
        methods=_WAN_METHODS,
    ),
    "cogvideox-5b": KnownModel(
        "CogVideoX 1.0 text-to-video: a base to train on, and for Concat-ID's SAT folders",
        repo="THUDM/CogVideoX-5b",
        parameters="5.6 B",
        methods=("concat-id", "st-drc"),
    ),
    "ltx-2.3": KnownModel(
        "LTX-2.3 text-to-video, of which the sound is left out: a base to train on",
        repo="diffusers/LTX-2.3-Diffusers",
        licence="LTX-2 Community License",
        parameters="13.1 B",
        methods=("concat-id", "concat-id-wan", "st-drc"),
    ),
}

# The repository names are those of the published README; Wan's files are those that its inference script fetches.
WEIGHTS: tuple[KnownWeights, ...] = (
    KnownWeights(
        "Concat-ID on Wan 2.1, first stage", "concat-id-wan", "wan2.1-1.3b", "yongzhong/Concat-ID-Wan", "first_stage.pt"
    ),
    KnownWeights(
        "Concat-ID on Wan 2.1, second stage with a modulation of its own for the reference",
        "concat-id-wan-adaln",
        "wan2.1-1.3b",
        "yongzhong/Concat-ID-Wan",
        "second_stage_adaln.pt",
    ),
    KnownWeights(
        "Concat-ID on CogVideoX, fine-tuned: follows the prompt better; for one identity and for two",
        "concat-id",
        "cogvideox-5b",
        "yongzhong/Concat-ID",
        "",
        hub="ModelScope",
    ),
    KnownWeights(
        "Concat-ID on CogVideoX, pre-training: closer to the person, follows the prompt less",
        "concat-id",
        "cogvideox-5b",
        "yongzhong/Concat-ID-pre-training",
        "",
        hub="ModelScope",
    ),
)


def weights_for(model: str, method: str | None) -> list[KnownWeights]:
    """The published weights of a method on a base."""
    return [item for item in WEIGHTS if (item.base, item.method) == (model, method)]
