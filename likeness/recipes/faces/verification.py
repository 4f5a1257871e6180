"""How well embeddings tell people apart, with intervals over people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from likeness.evaluate.statistics import Interval
from likeness.evaluate.statistics import bootstrap as bootstrap_of_means


@dataclass(frozen=True)
class Verification:
    """Between a photograph and the video of the same or another person (cosines averaged over the video's frames)."""

    num_people: int
    auc: Interval
    frame_auc: Interval  # a single frame instead of the video's average
    rank1_of_100: Interval
    frame_rank1_of_100: Interval
    same: Interval
    others: Interval

    def figures(self) -> dict[str, object]:
        return {
            "validation people": self.num_people,
            "verification AUC, photograph against video": str(self.auc),
            "verification AUC, photograph against one frame": str(self.frame_auc),
            "rank-1 among 100, from a video": str(self.rank1_of_100),
            "rank-1 among 100, from one frame": str(self.frame_rank1_of_100),
            "cosine, same person": str(self.same),
            "cosine, others": str(self.others),
        }


def auc_of(scores: np.ndarray) -> Callable[[np.ndarray], float]:
    """The AUC of the diagonal of `scores` [N, N] against the rest, as a function of the weights [N] that count each person.

    Ties count half. The scores are sorted once for all weights.
    """
    n = len(scores)
    rows, columns = np.nonzero(~np.eye(n, dtype=bool))
    order = np.argsort(scores[rows, columns])
    rows, columns = rows[order], columns[order]
    genuine, negatives = np.diag(scores), scores[rows, columns]
    left, right = (np.searchsorted(negatives, genuine, side=side) for side in ("left", "right"))

    def auc(weights: np.ndarray) -> float:
        cumulative = np.concatenate([[0.0], np.cumsum(weights[rows] * weights[columns])])
        beaten = (cumulative[left] + cumulative[right]) / 2
        return float((beaten * weights).sum() / (weights.sum() * cumulative[-1]))

    return auc


def rank1_of(scores: np.ndarray, gallery: int = 100) -> np.ndarray:
    """For each row of `scores` [N, N], the probability that its own column wins among `gallery` random people."""
    n = len(scores)
    better = (scores > np.diag(scores)[:, None]).sum(1)
    # None of the better ones among the gallery - 1 others drawn from n - 1.
    chance = np.ones(n)
    for i in range(min(gallery, n) - 1):
        chance *= np.clip((n - 1 - better - i) / (n - 1 - i), 0, 1)
    return chance


def bootstrap(statistic, num_people: int, *, rounds: int = 200, seed: int = 0) -> Interval:
    """`statistic(weights)` with its interval over resampled people; weights float64 [N] count each person."""
    rng = np.random.default_rng(seed)
    draws = [
        statistic(np.bincount(rng.integers(0, num_people, num_people), minlength=num_people).astype(float))
        for _ in range(rounds)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(statistic(np.ones(num_people))), float(low), float(high), num_people, num_people)


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of one value a person, with its interval."""
    return bootstrap_of_means(values, [str(person) for person in range(len(values))])


def verify(photos: np.ndarray, photo_person: np.ndarray, frames: np.ndarray, frame_person: np.ndarray) -> Verification:
    """Compares the first photograph of each person with every person's frames.

    Args:
        photos, frames: L2-normalised embeddings [., D].
        photo_person, frame_person: whose they are; both hold the same people.
    """
    people = np.unique(photo_person)
    first = np.array([np.flatnonzero(photo_person == person)[0] for person in people])
    cosines = photos[first] @ frames.T  # [N, all frames]
    by_video = np.stack([cosines[:, frame_person == person].mean(1) for person in people], 1)
    one_frame = np.array([np.flatnonzero(frame_person == person)[-1] for person in people])
    by_frame = cosines[:, one_frame]
    n = len(people)
    mean_of_others = (by_video.sum(1) - np.diag(by_video)) / (n - 1)
    return Verification(
        num_people=n,
        auc=bootstrap(auc_of(by_video), n, rounds=100),
        frame_auc=bootstrap(auc_of(by_frame), n, rounds=100),
        # From a video (or frame) its photograph is sought: rows are videos.
        rank1_of_100=mean_interval(rank1_of(by_video.T)),
        frame_rank1_of_100=mean_interval(rank1_of(by_frame.T)),
        same=mean_interval(np.diag(by_video)),
        others=mean_interval(mean_of_others),
    )
