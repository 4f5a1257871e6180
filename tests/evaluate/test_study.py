"""User studies: what the page tells and does not tell, and what votes are worth."""

import json
import os
import signal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from likeness.errors import UserError
from likeness.evaluate.study import QUESTIONS, VOTES_FORMAT, pair_up, read_key, write_study
from likeness.evaluate.tally import fleiss_kappa, tally
from likeness.evaluate.types import Item
from likeness.media import read_video

QUESTION_IDS = [question.id for question in QUESTIONS]
EVIL = "</script><script>alert('prompt')</script><img src=x onerror=alert(1)> \u2028 & \"quoted\""


class Page(HTMLParser):
    """Tags of a page, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._in_script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


def shown_on(folder):
    return json.loads(Page((folder / "page/index.html").read_text("utf-8")).scripts[0])


def write_votes(folder, key, voter, choose, pairs=None):
    """`choose(pair, question)` names a run; the file says its side."""
    votes = {
        id: {q: "left" if pair["left"] == choose(id, q) else "right" for q in QUESTION_IDS}
        for id, pair in key.pairs.items()
        if pairs is None or id in pairs
    }
    path = folder / f"{voter}.json"
    given = {"format": VOTES_FORMAT, "study": key.study, "voter": voter, "votes": votes}
    path.write_text(json.dumps(given), encoding="utf-8")
    return path


def test_the_page_shows_every_pair_and_names_no_run(make_runs, tmp_path):
    key = write_study(make_runs(), tmp_path / "study", seed=3)
    assert {path.name for path in (tmp_path / "study").iterdir()} == {"page", "key.json"}
    data, text = shown_on(tmp_path / "study"), (tmp_path / "study/page/index.html").read_text("utf-8")
    assert [pair["id"] for pair in data["pairs"]] == list(key.pairs) == ["001", "002", "003", "004"]
    assert [question["id"] for question in data["questions"]] == ["identity", "motion", "naturalness"]
    for word in ("ours", "theirs", "secret_name", "seed"):
        assert word not in text
    assert all(word not in path.name for path in tmp_path.glob("study/page/media/*") for word in ("ours", "theirs"))
    shade = {"ours": 60, "theirs": 150}
    for pair in data["pairs"]:
        for side in ("left", "right"):
            path = tmp_path / "study/page" / pair[side]
            assert read_video(path).frames.mean() == pytest.approx(shade[key.pairs[pair["id"]][side]], abs=4)
            assert b"made by" not in path.read_bytes()
        (photograph,) = pair["references"]
        assert (tmp_path / "study/page" / photograph).is_file()


def test_the_same_seed_gives_the_same_study_and_another_does_not(make_runs, tmp_path):
    runs = make_runs(ids=[f"item{i:02}" for i in range(12)])
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_study(runs, tmp_path / "studies" / name, seed=seed)
    a, b, c = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "studies" / name for name in "abc")
    )
    assert len(a) == 2 + 3 * 12 and a == b
    assert a[Path("key.json")] != c[Path("key.json")]


def test_sides_are_balanced_for_every_two_runs(make_runs):
    runs = make_runs(names=("x", "y", "z"), ids=[str(i) for i in range(7)])
    pairs, left_out = pair_up(runs, seed=0)
    assert len(pairs) == 21 and not left_out
    for two in ({"x", "y"}, {"x", "z"}, {"y", "z"}):
        lefts = [pair.left for pair in pairs if {pair.left, pair.right} == two]
        assert len(lefts) == 7 and abs(lefts.count(min(two)) - 3.5) == 0.5
    assert {(pair.left, pair.right) for pair in pairs} == {(a, b) for a in "xyz" for b in "xyz" if a != b}
    assert len(pair_up(runs, seed=0, num=2)[0]) == 6


def test_hostile_prompts_stay_text(make_runs, tmp_path):
    write_study(make_runs(prompt=EVIL), tmp_path / "study", seed=0)
    text = (tmp_path / "study/page/index.html").read_text("utf-8")
    parsed = Page(text)
    assert parsed.tags.count("script") == 2 and "img" not in parsed.tags
    assert all(pair["prompt"] == EVIL for pair in json.loads(parsed.scripts[0])["pairs"])


def test_missing_and_broken_videos_are_left_out_with_a_reason(make_runs, tmp_path):
    runs = make_runs()
    runs["theirs"][0].video.unlink()
    del runs["ours"][1]
    runs["ours"][1].video.write_bytes(runs["ours"][1].video.read_bytes()[:-40])
    key = write_study(runs, tmp_path / "study", seed=0)
    assert [pair["item"] for pair in key.pairs.values()] == ["d"]
    assert key.left_out.keys() == set("abc")
    assert key.left_out["a"] == "no video in theirs" and key.left_out["b"] == "no video in ours"
    assert key.left_out["c"].startswith("an unreadable video (") and key.left_out["c"].endswith(") in ours")


def test_a_signal_stops_it_and_nothing_is_left(make_runs, tmp_path):
    runs = make_runs()
    before = set(tmp_path.iterdir())

    def stop(done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        write_study(runs, tmp_path / "study", seed=0, progress=stop)
    assert set(tmp_path.iterdir()) == before


def test_other_codecs_are_encoded_for_browsers(make_runs, tmp_path):
    import av

    runs = make_runs(ids=("a",))
    path = runs["ours"][0].video
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    key = write_study(runs, tmp_path / "study", seed=0)
    side = "left" if key.pairs["001"]["left"] == "ours" else "right"
    with av.open(str(tmp_path / f"study/page/media/001_{side}.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 4


def _differing(runs, **changes):
    runs["theirs"][0] = Item(**{**runs["theirs"][0].__dict__, **changes})
    return runs


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda runs: {"ours": runs["ours"]}, "at least two"),
        (lambda runs: {"ours": runs["ours"][:2], "theirs": runs["theirs"][2:]}, "no video of the same item"),
        (lambda runs: _differing(runs, prompt="another"), "different prompts"),
        (lambda runs: _differing(runs, references=(), people=()), "different photographs"),
        (lambda runs: runs["ours"][0].references[0].write_bytes(b"no picture") and runs, "not a picture"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_left(make_runs, tmp_path, spoil, words):
    runs = spoil(make_runs())
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        write_study(runs, tmp_path / "study", seed=0)
    assert set(tmp_path.iterdir()) == before


def test_a_folder_with_something_in_it_is_refused(make_runs, tmp_path):
    (tmp_path / "study").mkdir()
    runs = make_runs()
    write_study(runs, tmp_path / "study", seed=0)
    with pytest.raises(UserError, match="may hold votes"):
        write_study(runs, tmp_path / "study", seed=0)


# Votes


def test_rates_do_not_depend_on_sides(make_runs, tmp_path):
    key = write_study(make_runs(), tmp_path / "study", seed=5)
    # Three voters; on identity all prefer ours, on motion one of three does, on naturalness they split by item.
    favours = {"identity": (1, 1, 1), "motion": (1, 0, 0)}
    paths = []
    for voter in range(3):

        def choose(pair, question, voter=voter):
            ours = favours[question][voter] if question in favours else key.pairs[pair]["item"] in "ab"
            return "ours" if ours else "theirs"

        paths.append(write_votes(tmp_path, key, f"voter{voter}", choose))
    result = tally(tmp_path / "study", paths)
    assert result.voters == {"voter0": 12, "voter1": 12, "voter2": 12} and result.num_answers == 12
    identity, motion, naturalness = result.win_rates
    assert (identity.run, identity.other) == ("ours", "theirs")
    assert (identity.rate.mean, identity.rate.low, identity.rate.high, identity.kappa) == (1.0, 1.0, 1.0, None)
    assert (motion.rate.mean, motion.rate.low, motion.rate.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    # Each item has 1 vote against 2: observed (1 + 4 - 3) / 6 = 1/3, chance 1/9 + 4/9 = 5/9, kappa -1/2.
    assert motion.kappa == pytest.approx(-0.5)
    assert naturalness.rate.mean == 0.5 and naturalness.kappa == pytest.approx(1.0)
    # 4 items, 2 of each kind: the resampled rate is binomial(4, 1/2) / 4, whose 2.5 % tails end at 0 and 1.
    assert (naturalness.rate.low, naturalness.rate.high) == (0.0, 1.0)
    assert (naturalness.rate.num_groups, naturalness.rate.num, naturalness.left_rate) == (4, 12, 0.5)


def test_kappa_of_fleiss_own_example():
    """The table of Fleiss (1971) as reference works give it: 10 subjects, 14 raters, 5 categories, kappa 0.210."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(counts) == pytest.approx(0.2099, abs=5e-5)


def test_kappa_by_hand_and_at_its_ends():
    # Items (2, 1) and (0, 3): observed (1/3 + 1) / 2 = 2/3; shares 1/3 and 2/3, chance 5/9; (2/3 - 5/9) / (4/9) = 1/4.
    assert fleiss_kappa([[2, 1], [0, 3]]) == pytest.approx(0.25)
    assert fleiss_kappa([[3, 0], [0, 2], [1, 0]]) == pytest.approx(1.0)  # one vote says nothing of agreement
    assert fleiss_kappa([[1, 0], [0, 1]]) is None
    assert fleiss_kappa([[3, 0], [3, 0]]) is None
    assert fleiss_kappa([]) is None


def test_unfinished_ballots_count_for_what_they_hold(make_runs, tmp_path):
    key = write_study(make_runs(), tmp_path / "study", seed=5)
    (tmp_path / "votes").mkdir()
    write_votes(tmp_path / "votes", key, "all", lambda pair, question: "ours")
    write_votes(tmp_path / "votes", key, "one", lambda pair, question: "theirs", pairs=("002",))
    result = tally(tmp_path / "study", [tmp_path / "votes"])
    assert result.voters == {"all": 12, "one": 3}
    assert [(rate.rate.mean, rate.rate.num) for rate in result.win_rates] == [(0.8, 5)] * 3


def test_a_voter_who_looks_at_the_side_alone_is_seen(make_runs, tmp_path):
    key = write_study(make_runs(), tmp_path / "study", seed=5)
    path = write_votes(tmp_path, key, "lefty", lambda pair, question: key.pairs[pair]["left"])
    rates = tally(tmp_path / "study", [path]).win_rates
    assert [(rate.rate.mean, rate.left_rate) for rate in rates] == [(0.5, 1.0)] * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "0123456789abcdef"}, "votes of the study 0123456789abcdef"),
        ({"format": "other"}, "not a file of votes"),
        ({"voter": " "}, "voter's name"),
        ({"votes": []}, "lacks"),
        ({"votes": {"999": {}}}, "'999'"),
        ({"votes": {"001": {"beauty": "left"}}}, "unknown question 'beauty'"),
        ({"votes": {"001": {"identity": "both"}}}, "'both'"),
        ({"votes": {"001": {"identity": ["left"]}}}, "must be one of left, right"),
        ({"votes": {"001": "left"}}, "no answers"),
        ({"votes": {}}, "answered anything"),
    ],
)
def test_votes_that_are_not_of_this_study_are_refused(make_runs, tmp_path, change, words):
    key = write_study(make_runs(ids=("a",)), tmp_path / "study", seed=0)
    path = write_votes(tmp_path, key, "v", lambda pair, question: "ours")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        tally(tmp_path / "study", [path])


def test_a_voter_counts_once(make_runs, tmp_path):
    key = write_study(make_runs(ids=("a",)), tmp_path / "study", seed=0)
    first = write_votes(tmp_path, key, "Ann", lambda pair, question: "ours")
    second = write_votes(tmp_path, key, "ann ", lambda pair, question: "theirs")
    for paths in ([first, second], [first, first]):
        with pytest.raises(UserError, match=r"Ann|ann.*again"):
            tally(tmp_path / "study", paths)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a file of votes"),
    ],
)
def test_files_that_are_no_votes(make_runs, tmp_path, content, words):
    write_study(make_runs(ids=("a",)), tmp_path / "study", seed=0)
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        tally(tmp_path / "study", [path])
    with pytest.raises(UserError, match="cannot be read"):
        tally(tmp_path / "study", [tmp_path / "nowhere.json"])
    with pytest.raises(UserError, match="no votes"):
        tally(tmp_path / "study", [])


def test_a_key_that_was_changed_is_refused(make_runs, tmp_path):
    key = write_study(make_runs(ids=("a", "b")), tmp_path / "study", seed=0)
    assert read_key(tmp_path / "study") == key
    path = tmp_path / "study/key.json"
    given = json.loads(path.read_text())
    pair = given["pairs"]["001"]
    pair["left"], pair["right"] = pair["right"], pair["left"]
    path.write_text(json.dumps(given))
    with pytest.raises(UserError, match="not as it was written"):
        read_key(tmp_path / "study")
    path.write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        read_key(tmp_path / "study")
    with pytest.raises(UserError, match="no key of a study"):
        read_key(tmp_path)
