"""Counting the votes of a user study: win rates with intervals, and how far voters agree."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from likeness.errors import UserError
from likeness.evaluate.statistics import Interval, bootstrap
from likeness.evaluate.study import SIDES, VOTES_FORMAT, Key, read_key

MAX_VOTES_BYTES = 64 * 2**20  # beyond any file of votes


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """One voter's answers: by id of a pair, by id of a question, "left" or "right". Pairs may be missing."""

    voter: str
    votes: dict[str, dict[str, str]]
    path: Path


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often one run was preferred to another.

    Attributes:
        question: id.
        run, other: names.
        rate: votes for `run` among all votes, 0..1 with its 95 % interval over items; 0.5 is no preference. Its `num`
            are votes, its `num_groups` items.
        kappa: Fleiss' kappa of the voters, -1..1: 1 full agreement, 0 what chance gives; None where no item has two
            votes, or every vote is for the same run.
        left_rate: share of votes for the left video; far from 0.5, voters looked at the side.
    """

    question: str
    run: str
    other: str
    rate: Interval
    kappa: float | None
    left_rate: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The outcome of a study.

    Attributes:
        study: its id.
        voters: by name, the answers they gave; `num_answers` is what a whole ballot has.
        num_answers: pairs x questions.
        win_rates: of every question and every two runs that got votes.
    """

    study: str
    voters: dict[str, int]
    num_answers: int
    win_rates: tuple[WinRate, ...]


def tally(folder: Path, votes: Iterable[Path]) -> Tally:
    """Counts votes.

    Args:
        folder: of the study, with its key.
        votes: files that voters sent back, or folders of them (``*.json``).

    Raises:
        UserError: no key, no votes, or a file that is not votes of this study: of another one, of a voter who is
            counted already, with unknown pairs, questions or answers.
    """
    key = read_key(folder)
    ballots: dict[str, Ballot] = {}
    for path in _files(votes):
        ballot = read_ballot(path, key)
        name = ballot.voter.casefold()
        if name in ballots:
            raise UserError(
                f"The voter {ballot.voter} is in {ballots[name].path} and again in {path}. Give one file a voter: leave "
                "one out, or change the name in it if they are two people."
            )
        ballots[name] = ballot
    if not ballots:
        raise UserError("There are no votes. Name the files that voters have sent back, or their folder.")
    counted = list(ballots.values())
    if not any(ballot.votes for ballot in counted):
        raise UserError("No voter has answered anything. Give files with votes.")
    pairs_of: dict[tuple[str, str], list[str]] = {}  # runs in the order of the study -> pairs
    for id, pair in key.pairs.items():
        first, second = sorted((pair["left"], pair["right"]), key=key.runs.index)
        pairs_of.setdefault((first, second), []).append(id)
    rates = [
        rate
        for question in key.questions
        for (run, other) in sorted(pairs_of, key=lambda runs: [key.runs.index(name) for name in runs])
        if (rate := _win_rate(question, run, other, pairs_of[run, other], key, counted)) is not None
    ]
    return Tally(
        study=key.study,
        voters={ballot.voter: sum(map(len, ballot.votes.values())) for ballot in counted},
        num_answers=len(key.pairs) * len(key.questions),
        win_rates=tuple(rates),
    )


def read_ballot(path: Path, key: Key) -> Ballot:
    """A file of votes, checked against the study's key.

    Raises:
        UserError: see `tally`.
    """
    given = _read_json(path)
    if not isinstance(given, dict) or given.get("format") != VOTES_FORMAT:
        raise UserError(f"{path} is not a file of votes. Give the files that the study's page lets voters download.")
    if given.get("study") != key.study:
        raise UserError(
            f"{path} holds votes of the study {given.get('study')}, not of {key.study}. Give the folder of that study, or "
            "leave the file out."
        )
    voter, votes = given.get("voter"), given.get("votes")
    if not isinstance(voter, str) or not voter.strip() or not isinstance(votes, dict):
        raise UserError(f"{path} lacks the voter's name or the votes. Ask the voter to download them again.")
    for pair, answers in votes.items():
        if pair not in key.pairs:
            raise UserError(f"{path} votes on the pair {pair!r}, which is not in the study. Was the file edited?")
        if not isinstance(answers, dict):
            raise UserError(f"{path} has no answers in pair {pair}. Was the file edited?")
        for question, answer in answers.items():
            if question not in key.questions:
                known = ", ".join(key.questions)
                raise UserError(f"{path} answers the unknown question {question!r} in pair {pair}. Known are {known}.")
            if answer not in SIDES:
                raise UserError(f"{path} answers {answer!r} in pair {pair}; it must be one of {', '.join(SIDES)}.")
    return Ballot(voter=" ".join(voter.split()), votes=votes, path=path)


def fleiss_kappa(counts: Sequence[Sequence[int]] | np.ndarray) -> float | None:
    """Agreement of voters beyond chance (Fleiss 1971), for items that may have different numbers of votes.

    Args:
        counts: ``[items, answers]``: how many voters gave each answer. Items with fewer than two votes say nothing
            about agreement and are left out.

    Returns:
        1 for full agreement, 0 for what the answers' shares give by chance; None where no item has two votes or all
        votes are for one answer, of which chance explains everything.
    """
    table = np.asarray(counts, dtype=np.float64).reshape(len(counts), -1 if len(counts) else 0)
    votes = table.sum(1)  # [items]
    table, votes = table[votes >= 2], votes[votes >= 2]
    if len(table) == 0:
        return None
    observed = float((((table**2).sum(1) - votes) / (votes * (votes - 1))).mean())  # agreeing pairs of voters
    shares = table.sum(0) / votes.sum()
    chance = float((shares**2).sum())
    return None if math.isclose(chance, 1.0) else (observed - chance) / (1 - chance)


def _win_rate(
    question: str, run: str, other: str, pairs: Sequence[str], key: Key, ballots: Sequence[Ballot]
) -> WinRate | None:
    """None where nobody has answered."""
    counts = np.zeros((len(pairs), 2), dtype=np.int64)  # [pairs, (run, other)]
    wins: list[float] = []  # a vote each
    places: list[str] = []
    num_left = 0
    for row, pair in enumerate(pairs):
        for ballot in ballots:
            side = ballot.votes.get(pair, {}).get(question)
            if side is not None:
                is_win = key.pairs[pair][side] == run
                counts[row, 0 if is_win else 1] += 1
                wins.append(float(is_win))
                places.append(pair)
                num_left += side == "left"
    if not wins:
        return None
    return WinRate(
        question=question,
        run=run,
        other=other,
        # Items are drawn with all their votes: votes on the same two videos are not independent.
        rate=bootstrap(wins, places),
        kappa=fleiss_kappa(counts),
        left_rate=num_left / len(wins),
    )


def _files(votes: Iterable[Path]) -> list[Path]:
    """The files named, and those in the folders named, in order of their names."""
    files: list[Path] = []
    for path in votes:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    return files


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_VOTES_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_VOTES_BYTES >> 20} MiB; that is no file of votes. Leave it out."
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The votes {path} cannot be read: {error.strerror}. Check the path.") from None
    except (ValueError, RecursionError):  # also a number too long to convert
        raise UserError(f"{path} is not JSON. Give the files that the study's page lets voters download.") from None
