"""The script of a study's page, run as a voter's browser runs it. How the page looks and plays is not seen here."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from likeness.evaluate.study import QUESTIONS, read_key, write_study
from likeness.evaluate.tally import tally

NODE = shutil.which("node")
VOTER = Path(__file__).with_name("study_voter.js")
EVIL = '</script><img src=x onerror=alert(1)> \u2028 & "quoted"'

pytestmark = pytest.mark.skipif(NODE is None, reason="the page's script needs node, which is not installed")


@pytest.fixture
def vote(tmp_path):
    """Does what a voter does; returns what they see after each action."""

    def run(*actions, storage=True):
        file = tmp_path / "actions.json"
        file.write_text(json.dumps({"storage": storage, "actions": [list(map(str, action)) for action in actions]}))
        done = subprocess.run([NODE, VOTER, file], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def page(make_runs, tmp_path):
    write_study(make_runs(ids=("a", "b", "c")), tmp_path / "study", seed=3)
    return tmp_path / "study" / "page" / "index.html"


def answered(*sides):
    """The answers of one pair, one side a question."""
    return [("answer", number, side) for number, side in enumerate(sides)]


ALL_LEFT = answered("left", "left", "left")


def test_a_voter_begins_with_a_name_and_goes_on_when_all_is_answered(vote, page) -> None:
    first, nameless, begun, one, two, three = vote(("load", page), ("begin", "  "), ("begin", "Ann"), *ALL_LEFT)
    assert first["shown"] == nameless["shown"] == ["welcome"]
    assert begun["shown"] == ["ballot"]
    assert begun["ballot"]["where"] == "Pair 1 of 3" and begun["ballot"]["prompt"] == "“a man nods”"
    assert begun["ballot"]["questions"] == [question.text for question in QUESTIONS]
    assert begun["ballot"]["choices"] == [[["left", "Left"], ["right", "Right"]]] * 3
    assert begun["ballot"]["answers"] == [None] * 3 and not begun["ballot"]["back"]
    assert begun["ballot"]["left"].endswith("001_left.mp4") and begun["ballot"]["right"].endswith("001_right.mp4")
    for name in (begun["ballot"]["left"], begun["ballot"]["right"], *begun["ballot"]["photographs"]):
        assert (page.parent / name).is_file()
    assert [seen["ballot"]["next"] for seen in (begun, one, two, three)] == [None, None, None, "Next"]
    assert [seen["ballot"]["progress"] for seen in (two, three)] == [[0, 3], [1, 3]]


def test_next_does_nothing_before_all_is_answered(vote, page) -> None:
    *_, seen = vote(("load", page), ("begin", "Ann"), *ALL_LEFT[:2], ("press", "next"))
    assert seen["ballot"]["where"] == "Pair 1 of 3"


def test_answers_are_kept_through_a_reload_and_may_be_changed(vote, page) -> None:
    *_, kept, back, changed, again = vote(
        ("load", page), ("begin", "Ann"), *answered("left", "right", "left"), ("press", "next"), ("answer", 1, "right"),
        ("reload",), ("press", "back"), ("answer", 0, "right"), ("reload",),
    )  # fmt: skip
    assert kept["ballot"]["where"] == "Pair 2 of 3" and kept["ballot"]["answers"] == [None, "right", None]
    assert back["ballot"]["answers"] == ["left", "right", "left"] and not back["ballot"]["back"]
    assert changed["ballot"]["answers"] == again["ballot"]["answers"] == ["right", "right", "left"]
    assert not kept["warned"]


def test_the_file_of_votes_is_what_was_answered_and_is_counted(vote, page, tmp_path) -> None:
    sides = (("left", "right", "left"), ("right", "right", "left"), ("left", "left", "right"))
    pairs = [action for pair in sides for action in (*answered(*pair), ("press", "next"))]
    *_, finish, end, _ = seen = vote(("load", page), ("begin", " Ann/<b> Ö "), *pairs, ("press", "download"))
    assert finish["ballot"]["next"] == "Finish"
    assert end["shown"] == ["end"] and end["told"].startswith("3 of 3 pairs")
    (file,) = seen[-1]["downloads"]
    key = read_key(tmp_path / "study")
    assert file["name"] == f"votes_{key.study}_Ann_b_Ö.json"
    expected = {
        pair: dict(zip(key.questions, given, strict=True)) for pair, given in zip(key.pairs, sides, strict=True)
    }
    assert json.loads(file["text"])["votes"] == expected
    path = tmp_path / "votes.json"
    path.write_text(file["text"])
    counted = tally(tmp_path / "study", [path])
    assert counted.voters == {"Ann/<b> Ö": 9} and counted.num_answers == 9


def test_another_study_and_another_voter_begin_anew(vote, page, make_runs, tmp_path) -> None:
    write_study(make_runs(ids=("a", "b")), tmp_path / "other", seed=4)
    other = tmp_path / "other" / "page" / "index.html"
    *_, elsewhere, here, forgotten, reloaded, begun = vote(
        ("load", page), ("begin", "Ann"), *ALL_LEFT, ("load", other), ("load", page), ("press", "forget"), ("reload",),
        ("begin", "Bob"),
    )  # fmt: skip
    assert elsewhere["shown"] == ["welcome"] and here["shown"] == ["ballot"]
    assert here["ballot"]["answers"] == ["left"] * 3
    assert forgotten["shown"] == reloaded["shown"] == ["welcome"]
    assert begun["ballot"]["answers"] == [None] * 3 and begun["ballot"]["progress"] == [0, 3]


def test_a_browser_that_keeps_nothing_warns_and_still_gives_the_file(vote, page) -> None:
    seen = vote(("load", page), ("begin", "Ann"), *ALL_LEFT, ("press", "save"), storage=False)
    assert all(step["warned"] for step in seen)
    assert list(json.loads(seen[-1]["downloads"][0]["text"])["votes"]) == ["001"]


def test_a_hostile_prompt_is_text(vote, make_runs, tmp_path) -> None:
    write_study(make_runs(ids=("a",), prompt=EVIL), tmp_path / "study", seed=0)
    *_, begun = vote(("load", tmp_path / "study" / "page" / "index.html"), ("begin", "Ann"))
    assert begun["ballot"]["prompt"] == f"“{EVIL}”"
