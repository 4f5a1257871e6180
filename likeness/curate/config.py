"""Everything that decides a curation, as one value that is written beside its dataset.

``measuring`` says what is looked at in a clip; changing it means decoding again. The rest are thresholds, weights and bands:
they decide about what was measured, as often as one likes. Defaults are Concat-ID's, with its section; what the paper leaves
open is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from likeness.errors import UserError
from likeness.settings import check_choice, from_plain, overridden, to_plain

Tie = Literal["more", "fewer"]
CountDenominator = Literal["samples", "samples with faces"]
IdentityDenominator = Literal["comparisons", "samples"]
AreaOf = Literal["everybody", "each"]
QualityOf = Literal["trade-off pairs", "all clips"]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is looked at in a clip.

    Attributes:
        samples_per_second: frames looked at (section 4.2: 2).
        max_samples: a clip with more is not decoded but dropped as too long: what is kept of each sample has to fit into memory,
            and such a file is a recording that wants to be cut into shots.
        second_look: look again with a border around the frame where no face was found: faces that fill the picture.
        max_people: people a clip may have (appendix B: 3). Frames with more faces are counted, but their faces are not compared.
        tie: which person count holds where two are equally common (open in the paper). Faces are missed more often than invented.
        across_gaps: compare a person's faces also across samples that show another number of people (open in the paper).
        references: candidates for the reference picture of each person (section 4.2: 5).
        flow_height: px, of the grey pictures that flow and motion are measured on.
        clip: folder of a CLIP model, and ``aesthetics`` the file with the linear head of an aesthetics model on it; None for none.
    """

    samples_per_second: float = 2.0
    max_samples: int = 240
    second_look: bool = True
    max_people: int = 3
    tie: Tie = "more"
    across_gaps: bool = False
    references: int = 5
    flow_height: int = 144
    clip: str | None = None
    aesthetics: str | None = None

    def __post_init__(self) -> None:
        check_choice("measuring.tie", self.tie, Tie)
        _check_above("measuring.samples_per_second", self.samples_per_second, 0.0)
        for name in ("max_samples", "max_people", "references"):
            _check_least(f"measuring.{name}", getattr(self, name), 1)
        _check_least("measuring.flow_height", self.flow_height, 32)
        if (self.clip is None) != (self.aesthetics is None):
            raise UserError(
                "measuring.clip and measuring.aesthetics go together: an aesthetics score needs the folder of a CLIP model and "
                "the file of the linear head. Set both or neither."
            )


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a clip must hold to. Shares are in 0..1; each is the last value that is still kept.

    Attributes:
        human_terms: a caption must name a person; clips without a caption are kept and counted.
        extra_terms: words that name people, besides the table in ``likeness.curate.terms``.
        min_duration_s: shorter clips are dropped (open in the paper).
        max_corrupt: share of the expected samples that may be damaged or missing (not in the paper).
        max_other_count: share of the samples that may show another number of people than most do (section 4.2: 30 %).
        count_over: what that share is of: all samples, or those with a face (open in the paper).
        min_cosine: between a person's faces in consecutive samples; less counts as a break (section 4.2: 0.5).
        max_breaks: share of breaks, of the worst person (section 4.2: 30 %).
        min_bridge: the greatest cosine of a person's faces before a moment to those after it; less means that somebody else took
            the place for good, which in a long clip is but one break (not in the paper). Below ``min_cosine``, since one person
            who turns away and stays so is no stranger. -1 keeps such clips.
        identity_over: what that share is of: comparisons, or the samples that were compared (open in the paper).
        min_area, max_area: share of the frame that faces cover, mean over the samples (section 4.2: 4 % and 90 %).
        area_of: everybody's faces together, or each person's (the paper names one person only).
        quality_of: what the limits of the area and ``ranking.top`` decide about: which trade-off pairs are used, as in section
            4.2, or which clips are kept at all.
    """

    human_terms: bool = True
    extra_terms: tuple[str, ...] = ()
    min_duration_s: float = 1.0
    max_corrupt: float = 0.0
    max_other_count: float = 0.3
    count_over: CountDenominator = "samples"
    min_cosine: float = 0.5
    max_breaks: float = 0.3
    min_bridge: float = 0.25
    identity_over: IdentityDenominator = "comparisons"
    min_area: float = 0.04
    max_area: float = 0.90
    area_of: AreaOf = "everybody"
    quality_of: QualityOf = "trade-off pairs"

    def __post_init__(self) -> None:
        check_choice("thresholds.count_over", self.count_over, CountDenominator)
        check_choice("thresholds.identity_over", self.identity_over, IdentityDenominator)
        check_choice("thresholds.area_of", self.area_of, AreaOf)
        check_choice("thresholds.quality_of", self.quality_of, QualityOf)
        for name in ("max_corrupt", "max_other_count", "max_breaks", "min_area", "max_area"):
            _check_share(f"thresholds.{name}", getattr(self, name))
        for name in ("min_cosine", "min_bridge"):
            if not -1.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"thresholds.{name} was given as {getattr(self, name)}; a cosine is in -1..1.")
        if not (self.min_duration_s >= 0 and math.isfinite(self.min_duration_s)):
            raise UserError(f"thresholds.min_duration_s was given as {self.min_duration_s}; it must be 0 or more.")
        if self.min_area > self.max_area:
            raise UserError(
                f"thresholds.min_area {self.min_area} is above thresholds.max_area {self.max_area}: no clip could be kept."
            )


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Which trade-off pairs, or clips (``thresholds.quality_of``), are the best of those that pass (section 4.2: a weighted sum of three scores; its weights are open).

    Each score is in 0..1 before it is weighted: aesthetics a tenth of the model's, flow and motion a share of what counts as full.

    Attributes:
        top: pairs or clips kept; None for all (section 4.2: 50,000 pairs).
        aesthetics, flow, motion: weights.
        full_flow: heights of the frame a second.
        full_motion: mean change of brightness, 0..1.
    """

    top: int | None = None
    aesthetics: float = 1.0
    flow: float = 0.5
    motion: float = 0.5
    full_flow: float = 0.5
    full_motion: float = 0.2

    def __post_init__(self) -> None:
        if self.top is not None:
            _check_least("ranking.top", self.top, 1)
        for name in ("aesthetics", "flow", "motion"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"ranking.{name} was given as {getattr(self, name)}; a weight is a finite number.")
        _check_above("ranking.full_flow", self.full_flow, 0.0)
        _check_above("ranking.full_motion", self.full_motion, 0.0)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Cosines between which a face of another clip shows the same person: ``low <= cosine < high``, of several ``<= high``.

    Attributes:
        cross: one person, a uniformly random match (section 4.2).
        tradeoff: one person, the match with the smallest cosine (section 4.2).
        several: two and three people (appendix B.1).
        min_matched: people of a clip of three that need a match (appendix B.1); of two, both do.
        exclude_same_source: no match from another clip of the same source video; else such pairs are marked.
        leak: cosine above which a face of a benchmark is held to be someone in the training data (appendix A.1).
        seed: of the random matches.
    """

    cross: tuple[float, float] = (0.7, 0.9)
    tradeoff: tuple[float, float] = (0.9, 0.99)
    several: tuple[float, float] = (0.87, 0.97)
    min_matched: int = 2
    exclude_same_source: bool = False
    leak: float = 0.45
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("cross", "tradeoff", "several"):
            low, high = getattr(self, name)
            if not -1.0 <= low < high <= 1.0 + 1e-6:
                raise UserError(f"pairing.{name} was given as {[low, high]}; it must be two cosines, the lower first.")
        if not -1.0 <= self.leak <= 1.0:
            raise UserError(f"pairing.leak was given as {self.leak}; a cosine is in -1..1.")
        _check_least("pairing.min_matched", self.min_matched, 1)


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """A whole curation; see the parts."""

    measuring: Measuring = field(default_factory=Measuring)
    thresholds: Thresholds = field(default_factory=Thresholds)
    ranking: Ranking = field(default_factory=Ranking)
    pairing: Pairing = field(default_factory=Pairing)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, as JSON keeps them."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CurationConfig:
        """The inverse of :meth:`to_dict`; what is left out has its default.

        Raises:
            UserError: for unknown keys and for values of another type or out of range.
        """
        return from_plain(cls, values)

    def override(self, settings: Sequence[str]) -> CurationConfig:
        """This configuration with values replaced.

        Args:
            settings: ``key=value`` each, e.g. ``thresholds.min_cosine=0.6`` or ``ranking.top=50000``.

        Raises:
            UserError: for an unknown key or a value that does not fit.
        """
        return CurationConfig.from_dict(overridden(self.to_dict(), settings))


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} was given as {value}; it is a share, in 0..1.")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} was given as {value}; it must be {least} or more.")


def _check_above(name: str, value: float, limit: float) -> None:
    if not (value > limit and math.isfinite(value)):
        raise UserError(f"{name} was given as {value}; it must be greater than {limit:g}.")
