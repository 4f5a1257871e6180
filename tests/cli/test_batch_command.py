"""`likeness generate --batch`: one load, each thing encoded once, one-to-one, resumable, and failures that stop nobody else."""

import json

import pytest
from transformers import UMT5EncoderModel

from likeness.backbones.wan import WanBackbone
from likeness.media import read_video

LINES = "a@@a man smiling@@{ann}\nb@@a woman smiling@@{ann}\nc@@a man smiling@@{bob}\n"


@pytest.fixture
def batch(photographs, tmp_path):
    def write(lines, name="b.txt"):
        path = tmp_path / name
        path.write_text(lines.format(**photographs, missing=tmp_path / "missing.png"))
        return path

    return write


def test_one_load_and_each_photograph_and_prompt_once(generate, batch, photographs, tmp_path, monkeypatch):
    (tmp_path / "copy.png").write_bytes(photographs["ann"].read_bytes())
    lines = LINES + "d@@a woman smiling@@" + str(tmp_path / "copy.png") + "\n"
    counts = {"load": 0, "photograph": 0, "texts": []}
    from likeness.pipeline import LikenessPipeline

    load, encode_reference, encode_text = (
        LikenessPipeline.from_pretrained.__func__,
        WanBackbone.encode_reference,
        WanBackbone.encode_text,
    )

    def counting_load(cls, *args, **options):
        counts["load"] += 1
        return load(cls, *args, **options)

    def counting_reference(self, pixels):
        counts["photograph"] += 1
        return encode_reference(self, pixels)

    def counting_text(self, prompts):
        counts["texts"] += prompts
        return encode_text(self, prompts)

    monkeypatch.setattr(LikenessPipeline, "from_pretrained", classmethod(counting_load))
    monkeypatch.setattr(WanBackbone, "encode_reference", counting_reference)
    monkeypatch.setattr(WanBackbone, "encode_text", counting_text)
    result = generate("--batch", batch(lines), "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "out" / f"{key}.mp4") for key in "abcd"]
    assert counts["load"] == 1 and counts["photograph"] == 2
    assert sorted(counts["texts"]) == ["", "a man smiling", "a woman smiling"]
    same = [(tmp_path / "out" / f"{key}.mp4").read_bytes() for key in "bd"]
    assert same[0] == same[1], "a copy of a photograph is the same photograph"


def test_what_no_job_needs_any_more_is_forgotten(model, photographs, tmp_path):
    from likeness.batch import BatchItem
    from likeness.generate import Settings, plan
    from likeness.generate.run import run
    from likeness.generate.studio import Studio

    people = [(photographs[name],) for name in ("ann", "ann", "bob")]
    items = [BatchItem(f"a man {i % 2}", who, "", key=str(i)) for i, who in enumerate(people)]
    studio = Studio.open(str(model), device="cpu")
    held = []
    jobs = plan(items, tmp_path, Settings(num_inference_steps=1), sheet=False)
    run(jobs, studio, on_outcome=lambda outcome: held.append((len(studio._photographs), len(studio._texts))))
    # (photographs, prompts): ann and "a man 0" stay as long as a later job needs them
    assert held == [(1, 1), (0, 1), (0, 0)]
    assert studio._photographs == {} and studio._texts == {}


def test_a_video_does_not_depend_on_its_neighbours(generate, batch, photographs, tmp_path):
    assert generate("--batch", batch(LINES), "-o", tmp_path / "one", "--no-sheet").exit_code == 0
    backwards = "\n".join(reversed(LINES.strip().split("\n")))
    assert generate("--batch", batch(backwards), "-o", tmp_path / "two", "--no-sheet").exit_code == 0
    assert generate("-r", photographs["bob"], "-p", "a man smiling", "-o", tmp_path / "alone.mp4").exit_code == 0
    videos = {key: (tmp_path / "one" / f"{key}.mp4").read_bytes() for key in "abc"}
    assert videos == {key: (tmp_path / "two" / f"{key}.mp4").read_bytes() for key in "abc"}
    assert videos["c"] == (tmp_path / "alone.mp4").read_bytes()
    assert len(set(videos.values())) == 3


def test_a_broken_item_does_not_stop_the_others_and_mending_it_finishes_the_batch(
    generate, batch, photographs, tmp_path, files_of
):
    (tmp_path / "text.jpg").write_text("no picture")
    lines = (
        "a@@a man smiling@@{ann}\nb@@a man smiling@@{missing}\nc@@a man smiling@@"
        + str(tmp_path / "text.jpg")
        + "\nd@@a man smiling@@{bob}\n"
    )
    result = generate("--batch", batch(lines), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert sorted(files_of(tmp_path / "out")) == [
        "a.json",
        "a.mp4",
        "a.png",
        "d.json",
        "d.mp4",
        "d.png",
        "failures.json",
    ]
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert [(failure["where"], failure["key"]) for failure in failures] == [
        ("b.txt line 2", "b"),
        ("b.txt line 3", "c"),
    ]
    assert "missing.png" in failures[0]["error"] and "not a picture" in failures[1]["error"]
    assert "failed (b.txt line 2): " in result.stderr and "error: 2 of 4 videos failed" in result.stderr
    assert "Traceback" not in result.stderr
    made = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.mp4", "d.mp4")}
    for name in ("missing.png", "text.jpg"):
        (tmp_path / name).write_bytes(photographs["ann"].read_bytes())
    result = generate("--batch", batch(lines), "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out/failures.json").exists()
    assert made == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}, "what was finished is kept"
    assert len(read_video(tmp_path / "out/b.mp4").frames) == 5


def test_ctrl_c_keeps_what_is_finished_and_leaves_nothing_half(generate, batch, tmp_path, monkeypatch, files_of):
    encode, calls = UMT5EncoderModel.forward, 0

    def interrupted(self, *args, **options):
        nonlocal calls
        calls += 1
        if calls == 3:  # prompt and empty prompt of the first video, prompt of the second
            raise KeyboardInterrupt
        return encode(self, *args, **options)

    monkeypatch.setattr(UMT5EncoderModel, "forward", interrupted)
    result = generate("--batch", batch(LINES), "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert "interrupted: 1 of 3 videos are finished" in result.stderr
    assert set(files_of(tmp_path / "out")) == {"a.mp4", "a.json", "a.png"}
    assert generate("--batch", batch(LINES), "-o", tmp_path / "out").exit_code == 0
    assert len(files_of(tmp_path / "out")) == 9


def test_ctrl_c_while_a_file_is_written_leaves_no_part_of_it(generate, photographs, tmp_path, monkeypatch, files_of):
    import likeness.media

    def interrupted(path, *args):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(likeness.media, "_encode_h264", interrupted)
    result = generate("-r", photographs["ann"], "-p", "a man", "-o", tmp_path / "out" / "v.mp4")
    assert result.exit_code == 130
    assert files_of(tmp_path) == {}


def test_running_out_of_memory_is_told_and_the_rest_goes_on(generate, batch, tmp_path, monkeypatch):
    import torch

    predict = WanBackbone.predict

    def starving(self, sequence, sigma, embeds):
        if starving.first:
            starving.first = False
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return predict(self, sequence, sigma, embeds)

    starving.first = True
    monkeypatch.setattr(WanBackbone, "predict", starving)
    result = generate("--batch", batch(LINES), "-o", tmp_path / "out")
    assert result.exit_code == 2
    (failure,) = json.loads((tmp_path / "out/failures.json").read_text())
    assert failure["key"] == "a" and "--num-frames" in failure["error"] and "5 frames of 48 x 48" in failure["error"]
    assert (tmp_path / "out/c.mp4").is_file()


def test_json_batches_and_seeds_of_their_own(generate, batch, photographs, tmp_path):
    document = {"face_1": {"img_paths": [str(photographs["ann"])], "prompt": "a man smiling"}}
    path = tmp_path / "opens2v.json"
    path.write_text(json.dumps(document))
    assert generate("--batch", path, "-o", tmp_path / "out", "--no-sheet").stdout.split() == [
        str(tmp_path / "out/face_1.mp4")
    ]
    lines = [
        json.dumps({"key": str(seed), "prompt": "a man", "references": str(photographs["ann"]), "seed": seed})
        for seed in (1, 2)
    ]
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n".join(lines))
    assert generate("--batch", path, "-o", tmp_path / "out", "--no-sheet").exit_code == 0
    assert (tmp_path / "out/1.mp4").read_bytes() != (tmp_path / "out/2.mp4").read_bytes()
    assert json.loads((tmp_path / "out/2.json").read_text())["settings"]["seed"] == 2
