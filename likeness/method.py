"""What distinguishes one identity-preserving method from another, as data.

A :class:`Method` says where reference tokens sit, what reads them, how they are dropped in training and how the
predictions are combined in sampling. Concat-ID, its Wan variants and ST-DRC are four values of it at the end of this
file; an ablation is a ``dataclasses.replace`` of one of them. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from likeness.errors import UserError
from likeness.settings import check_choice

GuidanceKind = Literal["joint", "decoupled"]
ReferenceTimestep = Literal["shared", "clean"]
ReferenceModulation = Literal["shared", "separate"]
DroppedReference = Literal["absent", "zeros"]
DroppedText = Literal["empty", "zeros"]
IdentityTarget = Literal["reference", "video"]
ReferenceKind = Literal["face", "clothing", "background"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where reference tokens sit in the rotary position space, in latent tokens.

    Token ``(h, w)`` of reference ``i`` (from 0) of a video of ``T x H x W`` tokens sits at
    ``(T + gap + i, rows * H + h, cols * W + w)``: Concat-ID Eq. 2 with all three at 0, ST-DRC Eq. 4 (TASS-RoPE) with
    ``rows = cols = 1``.
    """

    gap: int = 0
    rows: int = 0
    cols: int = 0

    def __post_init__(self) -> None:
        if min(self.gap, self.rows, self.cols) < 0:
            raise UserError(f"{self} has a negative part; gap, rows and cols count latent tokens or grids from 0 up.")


@dataclass(frozen=True)
class Stream:
    """One prediction of a denoising step: its weight and which conditions it sees."""

    weight: float
    text: bool
    reference: bool


def merge_streams(streams: Iterable[Stream]) -> tuple[Stream, ...]:
    """Add up the weights of streams that see the same conditions and leave out those that weigh nothing.

    The order of the result depends on the conditions alone, so equal sets of streams compare equal.
    """
    weights: dict[tuple[bool, bool], float] = {}
    for stream in streams:
        key = (stream.text, stream.reference)
        weights[key] = weights.get(key, 0.0) + stream.weight
    return tuple(Stream(weights[key], *key) for key in sorted(weights) if weights[key] != 0.0)


def without_references(streams: Iterable[Stream]) -> tuple[Stream, ...]:
    """The streams of a video that has no reference at all: the usual classifier-free guidance remains."""
    return merge_streams(Stream(stream.weight, stream.text, False) for stream in streams)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Default guidance of a method.

    Attributes:
        kind: "joint" keeps the reference in both streams (Concat-ID): ``(1 - s: reference) (s: text + reference)``.
            "decoupled" (ST-DRC Eq. 13) has ``(1 - s_y: nothing) (s_y - s_r: text) (s_r: text + reference)``.
        text: scale of the text, ``s`` or ``s_y``; 1 is no guidance.
        reference: scale of the reference ``s_r``; None for "joint".
    """

    kind: GuidanceKind
    text: float
    reference: float | None = None

    def __post_init__(self) -> None:
        check_choice("guidance.kind", self.kind, GuidanceKind)
        _check_scale("guidance.text", self.text)
        if self.kind == "joint" and self.reference is not None:
            raise UserError('Joint guidance has no scale for the reference; use kind="decoupled" to set one.')
        if self.kind == "decoupled":
            _check_scale("guidance.reference", self.reference)

    def streams(self, text_scale: float | None = None, reference_scale: float | None = None) -> tuple[Stream, ...]:
        """The predictions to run and their weights, which sum to 1.

        A reference scale given here decouples a joint method as well: training drops text and reference apart, so the
        stream without reference is one that the model knows.

        Args:
            text_scale: in place of ``text``.
            reference_scale: in place of ``reference``.

        Raises:
            UserError: for a scale that is not a finite number.
        """
        text = self.text if text_scale is None else text_scale
        reference = self.reference if reference_scale is None else reference_scale
        _check_scale("text guidance", text)
        if reference is None:
            return merge_streams((Stream(1.0 - text, False, True), Stream(text, True, True)))
        _check_scale("reference guidance", reference)
        return merge_streams(
            (Stream(1.0 - text, False, False), Stream(text - reference, True, False), Stream(reference, True, True))
        )


@dataclass(frozen=True, kw_only=True)
class ReferenceNoise:
    """Gaussian noise on the reference's pixels in training, of deviation ``exp(N(log_mean, log_std))`` in [-1, 1]."""

    log_mean: float = -3.0
    log_std: float = 0.5

    def __post_init__(self) -> None:
        if self.log_std < 0:
            raise UserError(f"reference_noise.log_std was given as {self.log_std}; a deviation is 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation of the reference in training (ST-DRC section 3.3, Eq. 5).

    The paper names the operations and gives no numbers: the defaults are ours.

    Attributes:
        flip: probability of a horizontal flip.
        rotate: probability of a rotation by an angle uniform in ±``rotation_deg``.
        crop: probability of a zoom into a window whose sides are ``crop_scale`` to 1 of the canvas.
        jitter: probability of a colour change: brightness, contrast and saturation times ``1 ± their value``.
    """

    flip: float = 0.5
    rotate: float = 0.5
    rotation_deg: float = 10.0
    crop: float = 0.5
    crop_scale: float = 0.85
    jitter: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "rotate", "crop", "jitter"):
            _check_probability(f"augment.{name}", getattr(self, name))
        if not 0 < self.crop_scale <= 1:
            raise UserError(f"augment.crop_scale was given as {self.crop_scale}; it must be in (0, 1].")
        for name in ("brightness", "contrast", "saturation"):
            _check_probability(f"augment.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class IdentityLoss:
    """ST-DRC's face-guided losses (Eq. 9 to 12).

    Attributes:
        weight, temporal_weight: lambda_id and lambda_tic of Eq. 11.
        gamma: of Eq. 12; lower counts noisier samples more.
        target: what a generated face is to be like: the "reference" (Eq. 9), or, of our own, the same frame of the real "video". A
            recogniser is not blind to expressions, so that the reference's pulls against those that a prompt asks for.
    """

    weight: float = 0.1
    temporal_weight: float = 0.05
    gamma: float = 1.0
    target: IdentityTarget = "reference"

    def __post_init__(self) -> None:
        check_choice("identity_loss.target", self.target, IdentityTarget)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to condition a video model on reference pictures.

    Attributes:
        name: its key in :data:`METHODS`, or a name of your own.
        placement: rotary positions of the reference tokens.
        guidance: default guidance in sampling.
        reference_timestep: "shared" gives the reference the video's timestep, "clean" gives it timestep 0.
        reference_reads_text: whether cross-attention to the text reaches the reference tokens.
        reference_modulation: "shared" uses the video's AdaLN tables, "separate" tables of the reference's own.
        dropped_reference: what stands for a dropped reference: "zeros" keeps its tokens with a zero latent, "absent"
            leaves them out. The two differ, so this must be the one the weights were trained with.
        dropped_text: what stands for a dropped prompt: the "empty" prompt's embeddings, or "zeros", as the published
            CogVideoX weights know it. A negative prompt takes its place in sampling.
        text_dropout, reference_dropout: probabilities in training, drawn independently.
        reference_noise, augment, identity_loss: training only, the first two of every reference; None for none.
        flipped_kinds: in training, what is mirrored in half of its showings (Concat-ID B.2: clothing, and never a face).
        max_references: references that the weights were made for.
        kinds: what a reference may show. Faces come first, then clothing, then the background (Concat-ID section 5.3).
    """

    name: str
    placement: Placement
    guidance: Guidance
    reference_timestep: ReferenceTimestep = "shared"
    reference_reads_text: bool
    reference_modulation: ReferenceModulation = "shared"
    dropped_reference: DroppedReference
    dropped_text: DroppedText = "empty"
    text_dropout: float
    reference_dropout: float
    reference_noise: ReferenceNoise | None = None
    augment: Augment | None = None
    flipped_kinds: tuple[ReferenceKind, ...] = ()
    identity_loss: IdentityLoss | None = None
    max_references: int = 1
    kinds: tuple[ReferenceKind, ...] = ("face",)

    def __post_init__(self) -> None:
        check_choice("reference_timestep", self.reference_timestep, ReferenceTimestep)
        check_choice("reference_modulation", self.reference_modulation, ReferenceModulation)
        check_choice("dropped_reference", self.dropped_reference, DroppedReference)
        check_choice("dropped_text", self.dropped_text, DroppedText)
        _check_probability("text_dropout", self.text_dropout)
        _check_probability("reference_dropout", self.reference_dropout)
        for name in ("kinds", "flipped_kinds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only
            for kind in getattr(self, name):
                check_choice(name, kind, ReferenceKind)
        if self.max_references < 1:
            raise UserError(f"max_references was given as {self.max_references}; a method takes at least 1 reference.")

    def check_references(self, kinds: Sequence[ReferenceKind]) -> None:
        """Refuse references that the weights were not made for.

        Args:
            kinds: of each reference, in their order.

        Raises:
            UserError: for too many, a kind that the method does not know, or kinds out of the published order.
        """
        if len(kinds) > self.max_references:
            raise UserError(
                f"{len(kinds)} references were given; method {self.name!r} of this model takes at most "
                f"{self.max_references}. Give fewer, or use a model made for more."
            )
        for kind in kinds:
            if kind not in self.kinds:
                raise UserError(
                    f"A reference of the kind {kind!r} was given; method {self.name!r} of this model was made for "
                    f"{', '.join(self.kinds)}. Leave it out, or use a model made for it."
                )
        if list(kinds) != sorted(kinds, key=get_args(ReferenceKind).index):
            raise UserError(
                f"References of {', '.join(kinds)} were given in this order; give faces first, then clothing, then the "
                "background."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts, as JSON keeps them."""
        values = {**asdict(self), "kinds": list(self.kinds), "flipped_kinds": list(self.flipped_kinds)}
        # Sidecars and runs keep a method to compare with: those from before these fields stay equal.
        if not self.flipped_kinds:
            del values["flipped_kinds"]
        if self.identity_loss is not None and self.identity_loss.target == "reference":
            del values["identity_loss"]["target"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Method:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: for keys that are unknown or missing and for values out of range.
        """
        return _build(cls, values, "method")


# Fields that are dataclasses themselves; every other field is a plain JSON value.
_PARTS: dict[str, type] = {
    "placement": Placement,
    "guidance": Guidance,
    "reference_noise": ReferenceNoise,
    "augment": Augment,
    "identity_loss": IdentityLoss,
}


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} was given as {values!r}; it must be a table of {cls.__name__}'s fields.")
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{where} has the unknown key(s) {', '.join(unknown)}; known are {', '.join(known)}.")
    built = {
        key: _build(_PARTS[key], value, f"{where}.{key}") if key in _PARTS and value is not None else value
        for key, value in values.items()
    }
    try:
        return cls(**built)
    except UserError:
        raise
    except TypeError as error:
        # Either a field is missing or a value is of a type that the range checks cannot compare.
        raise UserError(
            f"{where} is not a complete {cls.__name__}: {error}. Its fields are {', '.join(known)}."
        ) from None


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} was given as {value}; it must be in 0..1.")


def _check_scale(name: str, value: float | None) -> None:
    if value is None or not math.isfinite(value):
        raise UserError(f"{name} was given as {value}; a guidance scale is a finite number, 1 for no guidance.")


# Concat-ID as published on CogVideoX: Eq. 2, reference dropped as a zero latent; text and reference are dropped
# independently with probability 0.1 (section 5.1).
CONCAT_ID = Method(
    name="concat-id",
    placement=Placement(),
    guidance=Guidance(kind="joint", text=6.0),
    reference_reads_text=True,
    dropped_reference="zeros",
    text_dropout=0.1,
    reference_dropout=0.1,
    reference_noise=ReferenceNoise(),
    max_references=4,
    kinds=("face", "clothing", "background"),
)

# The published Wan weights: the reference sits beside the video, and the text does not reach it.
CONCAT_ID_WAN = Method(
    name="concat-id-wan",
    placement=Placement(cols=1),
    guidance=Guidance(kind="joint", text=5.0),
    reference_reads_text=False,
    dropped_reference="zeros",
    text_dropout=0.1,
    reference_dropout=0.1,
    reference_noise=ReferenceNoise(),
)

CONCAT_ID_WAN_ADALN = Method(
    name="concat-id-wan-adaln",
    placement=Placement(cols=1),
    guidance=Guidance(kind="joint", text=5.0),
    reference_reads_text=False,
    reference_modulation="separate",
    dropped_reference="zeros",
    text_dropout=0.1,
    reference_dropout=0.1,
    reference_noise=ReferenceNoise(),
)

# ST-DRC does not say whether the text reaches the reference, which timestep the reference has or what a dropped
# reference is: those three are our choice.
ST_DRC = Method(
    name="st-drc",
    placement=Placement(rows=1, cols=1),
    guidance=Guidance(kind="decoupled", text=5.0, reference=7.5),
    reference_reads_text=True,
    dropped_reference="absent",
    text_dropout=0.05,
    reference_dropout=0.20,
    augment=Augment(),
    identity_loss=IdentityLoss(),
)

METHODS: dict[str, Method] = {method.name: method for method in (CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC)}
