"""Benchmarks in their authors' layouts, made small; where videos are found; and what is refused in which words."""

import csv
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import UserError
from likeness.evaluate import frames
from likeness.evaluate.readers import one_a_category, read_benchmark, read_rows, write_batch
from likeness.media import sha256_file, write_picture
from likeness.sidecar import write_json


def _picture(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, np.full((20, 20, 3), shade, np.uint8))
    return path


def _video(path, content=b"a video"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _sidecar(video, prompt, photographs, **others):
    _video(video, content=f"{video.name}".encode())
    references = [
        {"path": f"../{path.parent.name}/{path.name}", "sha256": sha256_file(path), "kind": kind}
        for path, kind in photographs
    ]
    record = {
        "format": 1,
        "video": video.name,
        "prompt": prompt,
        "settings": {"seed": 3},
        "model_name": "tiny",
        "method": {"name": "concat-id"},
        "photographs": [entry["sha256"] for entry in references],
        "references": references,
        **others,
    }
    write_json(video.with_suffix(".json"), record)
    return video


@pytest.fixture
def consisid(tmp_path):
    """Three pictures of two people, two prompts in each of two categories."""
    folder = tmp_path / "bench"
    for name in ("2_celebrity_woman_Ada_1", "1_plain_man_1", "10_celebrity_woman_Ada_2"):
        _picture(folder / "eval" / "face_images" / f"{name}.png")
    with (folder / "video_caption_eval_old.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "Class", "Original_Prompt", "Refined_man", "Refined_woman"])
        for index, category in enumerate(("Action", "Action", "Mood", "Mood"), 1):
            writer.writerow([index, category, "x", f"A {{class_token}} no. {index}", f"One {{class_token}}, {index}"])
    return folder


@pytest.fixture
def vip(tmp_path):
    root = tmp_path / "vip" / "testset"
    for name, count in (("id001", 2), ("id002", 10)):
        _picture(root / name / "image.png")
        for number in range(1, count + 1):
            (root / name / f"prompt{number}.txt").write_text(f"prompt {number}\nof {name}\n")
    return root.parent


def test_consisid_pairs_every_picture_with_every_prompt(consisid, tmp_path):
    _video(tmp_path / "videos" / "2_celebrity_woman_Ada_1.png--3" / "out.mp4")  # as the official script saves
    _video(tmp_path / "videos" / "1_plain_man_1--4.mp4")
    items = read_benchmark(consisid, tmp_path / "videos")
    assert len(items) == 3 * 4
    assert [item.references[0].stem.split("_")[0] for item in items[::4]] == ["1", "2", "10"]  # by number, not by text
    by_id = {item.id: item for item in items}
    man, woman = by_id["1_plain_man_1--4"], by_id["2_celebrity_woman_Ada_1--3"]
    assert man.prompt == "A man no. 4"
    assert woman.prompt == "One woman, 3"  # "woman" is looked for before "man", and no category is written for it
    assert man.tags == {"class": "man", "category": "Mood"}
    assert (man.group, woman.group) == ("1_plain_man_1", "Ada")
    assert by_id["10_celebrity_woman_Ada_2--1"].group == "Ada"
    assert man.video.name == "1_plain_man_1--4.mp4"
    assert woman.video.name == "out.mp4"
    assert sum(item.video.exists() for item in items) == 2


def test_one_prompt_a_category_is_the_same_everywhere(consisid):
    rows = one_a_category(read_rows(consisid))
    assert len(rows) == 3 * 2
    assert {(row.item.references, row.item.tags["category"]) for row in rows} == {
        (row.item.references, row.item.tags["category"]) for row in read_rows(consisid)
    }
    assert rows == one_a_category(list(reversed(read_rows(consisid))))[::-1]


def test_vip_prompts_in_the_order_of_their_numbers(vip, tmp_path):
    _video(tmp_path / "videos" / "id002" / "prompt10.mp4")
    items = read_benchmark(vip, tmp_path / "videos")
    assert [item.id for item in items[2:5]] == ["id002_prompt1", "id002_prompt2", "id002_prompt3"]
    assert (items[-1].id, items[-1].prompt) == ("id002_prompt10", "prompt 10 of id002")
    assert items[-1].video.exists()
    assert {item.group for item in items} == {"id001", "id002"}
    assert read_benchmark(vip / "testset", tmp_path / "videos") == items


def test_opens2v_takes_the_people_among_the_subjects(tmp_path):
    bench = tmp_path / "Human-Domain_Eval.json"
    entries = {
        "singlehuman_1": {"img_paths": ["Images/crop_man/15.png"], "prompt": "a", "class_label": ["Man"]},
        "faceobj_2": {"img_paths": ["Images/o/1.png", "Images/f/2.png"], "prompt": "b", "class_label": ["hat", "woman"]},
        "humanobj_3": {"img_paths": ["Images/man/1.png", "Images/dog/2.png"], "prompt": "c", "class_label": None},
        "singleobj_4": {"img_paths": ["Images/o/7.png"], "prompt": "d", "class_label": ["car"]},
        "multihuman_5": {"img_paths": ["m/1.png", "m/2.png"], "prompt": "e", "class_label": ["man", "girl"]},
    }  # fmt: skip
    bench.write_text(json.dumps(entries))
    _video(tmp_path / "v" / "faceobj_2.mp4")
    items = {item.id: item for item in read_benchmark(bench, tmp_path / "v")}
    assert [path.name for path in items["faceobj_2"].references] == ["2.png"]
    assert [path.parent.name for path in items["humanobj_3"].references] == ["man"]
    assert items["singleobj_4"].references == ()
    assert items["multihuman_5"].people == (0, 1)
    assert items["singlehuman_1"].tags["category"] == "singlehuman"
    assert items["faceobj_2"].video.exists()
    assert not items["singlehuman_1"].video.exists()


@pytest.mark.parametrize("names", [["0.mp4", "2.mp4"], ["0000.mp4", "0002.webm"], ["0_a_man/000000.mp4", "2-x/v.mp4"]])
def test_concat_id_text_by_number(tmp_path, names):
    bench = tmp_path / "batch.txt"
    bench.write_text("a man@@a.png\na woman@@b.png\ntwo@@a.png@@b.png\n")
    videos = [_video(tmp_path / "videos" / name) for name in names]
    items = read_benchmark(bench, tmp_path / "videos")
    assert [item.id for item in items] == ["0000", "0001", "0002"]
    assert [items[0].video, items[2].video] == videos
    assert not items[1].video.exists()
    assert [item.people for item in items] == [(0,), (0,), (0, 1)]
    assert items[2].group == "a.png+b.png"
    assert read_benchmark(bench, tmp_path / "videos", same_person=True)[2].people == (0, 0)


def test_concat_id_json_by_the_names_it_gives(tmp_path):
    bench = tmp_path / "metadata.json"
    bench.write_text(json.dumps([{"video_path": "7/clip.mp4", "caption": "a man", "image_path": "7/a.png@@7/b.png"}]))
    video = _video(tmp_path / "7" / "clip.mp4")
    (item,) = read_benchmark(bench, tmp_path)
    assert (item.id, item.video, item.prompt) == ("7_clip", video, "a man")
    assert read_benchmark(tmp_path, tmp_path) == [item]  # a folder with a single list


def test_a_batch_written_here_reads_back_the_same(consisid, tmp_path):
    write_batch(read_rows(consisid), tmp_path / "elsewhere" / "pairs.jsonl")
    before, after = read_rows(consisid), read_rows(tmp_path / "elsewhere" / "pairs.jsonl")
    for one, other in zip(before, after, strict=True):
        assert (one.item.id, one.item.prompt, one.item.group, one.item.people, one.item.tags) == (
            other.item.id, other.item.prompt, other.item.group, other.item.people, other.item.tags,
        )  # fmt: skip
        assert one.item.references[0].samefile(other.item.references[0])


def test_videos_of_a_batch_are_found_by_their_sidecars(tmp_path):
    ann, bob = _picture(tmp_path / "photos" / "ann.png", 1), _picture(tmp_path / "photos" / "bob.png", 2)
    bench = tmp_path / "batch.txt"
    bench.write_text("a man  laughs@@photos/ann.png\na man laughs@@photos/bob.png\nhe sleeps@@photos/ann.png\n")
    video = _sidecar(tmp_path / "out" / "bob_a_man.mp4", "a man laughs", [(bob, "face")])
    other = _sidecar(tmp_path / "out" / "1.mp4", "a man laughs", [(ann, "face")])  # its number is somebody else's
    items = read_benchmark(bench, tmp_path / "out")
    assert [item.video for item in items[:2]] == [other, video]
    assert not items[2].video.exists()


def test_our_own_folder_with_its_failures(tmp_path):
    ann, bob, coat = (_picture(tmp_path / "photos" / f"{name}.png", n) for n, name in enumerate(("ann", "bob", "coat")))
    _sidecar(tmp_path / "out" / "two.mp4", "they laugh", [(ann, "face"), (bob, "face"), (coat, "clothing")])
    gone = _sidecar(tmp_path / "out" / "deep" / "gone.mp4", "he sleeps", [(ann, "face")])
    gone.unlink()
    _sidecar(tmp_path / "out" / "nobody.mp4", "a street", [])
    failure = {"output": "failed.mp4", "prompt": "she runs", "references": [str(bob)], "error": "no memory"}
    write_json(tmp_path / "out" / "failures.json", [failure])
    write_json(tmp_path / "out" / "other.json", {"something": "else"})
    items = {item.id: item for item in read_benchmark(None, tmp_path / "out")}
    assert list(items) == ["deep/gone", "failed", "nobody", "two"]
    two = items["two"]
    assert ([path.resolve() for path in two.references], two.people) == ([ann, bob], (0, 1))
    assert two.group == f"{sha256_file(ann)[:12]}+{sha256_file(bob)[:12]}"
    assert two.tags == {"model": "tiny", "method": "concat-id", "seed": "3"}
    assert not items["deep/gone"].video.exists()
    assert (items["failed"].prompt, items["failed"].video.exists()) == ("she runs", False)
    assert items["failed"].group == sha256_file(bob)[:12]
    assert items["nobody"].references == ()
    _video(tmp_path / "out" / "two_candidates" / "seed1.mp4")  # the best of them is a row already
    assert len(read_benchmark(None, tmp_path / "out")) == 4
    for name in ("strange", "stranger"):
        _video(tmp_path / "out" / f"{name}.mp4")
    with pytest.raises(UserError, match=r"strange\.mp4 has no \.json .*, nor do 1 others"):
        read_benchmark(None, tmp_path / "out")


# What is refused


def test_an_unknown_layout_lists_those_that_are_known(tmp_path):
    (tmp_path / "bench").mkdir()
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    odd = tmp_path / "odd.json"
    odd.write_text("[1, 2]")
    (tmp_path / "a.yaml").write_text("a: b")
    for benchmark in (tmp_path / "bench", table, odd, tmp_path / "a.yaml", tmp_path / "nothing.txt"):
        with pytest.raises(UserError) as caught:
            read_benchmark(benchmark, tmp_path)
        assert all(name in str(caught.value) for name in ("ConsisID", "Concat-ID", "OpenS2V", "VIP-200K")), benchmark
        assert str(benchmark) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no video of the benchmark's 2 rows"),
        (["cat.mp4"], "would be called 0000.mp4"),
        (["1.mp4", "2.mp4"], "Numbers count from 0"),
        (["0.mp4", "0.webm"], "has 2 videos numbered 0"),
        (["0000.mp4", "0000.mov"], "has 2 videos called 0000"),
    ],
)
def test_videos_that_cannot_be_told_apart(tmp_path, names, words):
    (tmp_path / "batch.txt").write_text("a@@a.png\nb@@b.png\n")
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(names):
        _video(tmp_path / "videos" / name, content=bytes([number + 1]))
    with pytest.raises(UserError, match=words):
        read_benchmark(tmp_path / "batch.txt", tmp_path / "videos")


def test_two_seeds_of_one_row_are_two_runs(tmp_path):
    ann = _picture(tmp_path / "photos" / "ann.png")
    (tmp_path / "batch.txt").write_text("a man@@photos/ann.png\n")
    for seed in (0, 1):
        _sidecar(tmp_path / "out" / f"ann_seed{seed}.mp4", "a man", [(ann, "face")])
    with pytest.raises(UserError, match="another run"):
        read_benchmark(tmp_path / "batch.txt", tmp_path / "out")


def test_other_mistakes_are_named(consisid, vip, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        read_benchmark(consisid, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not written by `likeness generate`"):
        read_benchmark(None, tmp_path / "empty")
    _picture(consisid / "eval" / "face_images" / "11_somebody.png")
    with pytest.raises(UserError, match="says neither man nor woman"):
        read_rows(consisid)
    (vip / "testset" / "id001" / "image.png").unlink()
    with pytest.raises(UserError, match="id001 has prompts but no"):
        read_rows(vip)
    with pytest.raises(UserError, match=r"must end in \.jsonl"):
        write_batch([], tmp_path / "pairs.txt")
    (tmp_path / "twice.jsonl").write_text('{"key": "a/b", "prompt": "x", "references": "a.png"}\n' * 1)
    with pytest.raises(UserError, match="no category"):
        one_a_category(read_rows(tmp_path / "twice.jsonl"))
    (tmp_path / "people.jsonl").write_text('{"prompt": "x", "references": ["a.png"], "people": [0, 1]}\n')
    with pytest.raises(UserError, match='"people" must be a list'):
        read_rows(tmp_path / "people.jsonl")


# Which frames are looked at


@pytest.mark.parametrize("num_frames", range(1, 401))
def test_grids_equal_the_official_formulas(num_frames):
    last = num_frames - 1
    # ConsisID: numpy's evenly spaced numbers, which are multiples of one rounded step but for the last.
    for count in (16, 32):
        spaced = [int(i * (last / (count - 1))) for i in range(count - 1)]
        assert frames.consisid(num_frames, count).tolist() == [*spaced, last]
    assert frames.clip_score(num_frames).tolist() == [i * num_frames // 16 for i in range(16)]
    # ViCLIP: cut 0 .. N into as many equal parts as there are frames, 8 at most; the middle of each, the last again.
    parts = min(8, num_frames)
    borders = [i * num_frames // parts for i in range(parts + 1)]
    middles = [(first + after - 1) // 2 for first, after in itertools.pairwise(borders)]
    assert frames.viclip(num_frames).tolist() == middles + [middles[-1]] * (8 - parts)
    assert frames.every(num_frames).tolist() == list(range(num_frames))


@given(st.integers(1, 400), st.floats(1, 120))
def test_dynamic_degree_looks_eight_times_a_second(num_frames, fps):
    step = max(1, round(fps / 8))
    assert frames.eighths(num_frames, fps).tolist() == [i for i in range(num_frames) if i % step == 0]
