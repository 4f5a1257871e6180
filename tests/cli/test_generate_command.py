"""`likeness generate` from end to end, with random weights in the real classes."""

import json

import numpy as np
import pytest

from likeness.media import read_picture, read_video, sha256_file

PROMPT = "a woman smiling in the park"


def test_writes_video_sidecar_and_sheet(generate, photographs, tmp_path):
    result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'v.mp4'}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4", "v.json", "v.png"}
    video = read_video(tmp_path / "v.mp4")
    assert video.frames.shape == (5, 48, 48, 3) and video.fps == 8
    assert read_picture(tmp_path / "v.png").ndim == 3
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["sha256"] == sha256_file(tmp_path / "v.mp4")
    assert record["settings"]["seed"] == 3 and record["settings"]["num_frames"] == 5 and record["settings"]["fps"] == 8
    assert record["settings"]["text_guidance"] == record["method"]["guidance"]["text"]
    assert record["references"][0]["sha256"] == sha256_file(photographs["ann"])
    assert (tmp_path / record["references"][0]["path"]).resolve() == photographs["ann"]
    assert "AI-generated" in record["provenance"]
    assert len(record["similarity"]["frames"]) == 1 and len(record["similarity"]["frames"][0]) == 5
    assert record["similarity"]["mean"] == pytest.approx(np.mean(record["similarity"]["frames"]), abs=1e-4)
    assert record["model"]["transformer/diffusion_pytorch_model.safetensors"] and record["software"]["torch"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(generate, photographs, tmp_path, files_of):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / folder / "v.mp4", "--seed", seed)
        assert result.exit_code == 0, result.output
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a["v.mp4"] != c["v.mp4"]


def test_from_a_sidecar_makes_the_same_video_again(generate, photographs, tmp_path, files_of):
    options = (
        "-r",
        photographs["ann"],
        "-p",
        PROMPT,
        "--seed",
        5,
        "--text-guidance",
        2,
        "--reference-guidance",
        3,
        "--fps",
        12,
    )
    assert generate(*options, "-o", tmp_path / "a" / "v.mp4").exit_code == 0
    from typer.testing import CliRunner

    from likeness.cli import app

    again = CliRunner().invoke(
        app, ["generate", "--from", str(tmp_path / "a/v.json"), "-o", str(tmp_path / "b/v.mp4"), "--device", "cpu"]
    )
    assert again.exit_code == 0, again.output
    assert "warning: Not as it was" not in again.stderr
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    other = generate("--from", tmp_path / "a/v.json", "--seed", 6, "-o", tmp_path / "c/v.mp4")
    assert other.exit_code == 0, other.output
    assert json.loads((tmp_path / "c/v.json").read_text())["settings"]["text_guidance"] == 2
    assert (tmp_path / "c/v.mp4").read_bytes() != (tmp_path / "a/v.mp4").read_bytes()


def test_from_tells_what_has_changed(generate, photographs, tmp_path):
    assert generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4").exit_code == 0
    record = json.loads((tmp_path / "v.json").read_text())
    record["software"]["torch"] = "1.0"
    (tmp_path / "v.json").write_text(json.dumps(record))
    result = generate("--from", tmp_path / "v.json", "-o", tmp_path / "w.mp4")
    assert result.exit_code == 0 and "torch 1.0 (now " in result.stderr


def test_from_refuses_another_photograph(generate, photographs, tmp_path):
    photo = tmp_path / "p.png"
    photo.write_bytes(photographs["ann"].read_bytes())
    assert generate("-r", photo, "-p", PROMPT, "-o", tmp_path / "v.mp4").exit_code == 0
    photo.write_bytes(photographs["bob"].read_bytes())
    result = generate("--from", tmp_path / "v.json", "-o", tmp_path / "w.mp4")
    assert result.exit_code == 2 and "not the one" in result.stderr
    photo.unlink()
    result = generate("--from", tmp_path / "v.json", "-o", tmp_path / "w.mp4")
    assert result.exit_code == 2 and "is gone" in result.stderr


def test_a_finished_video_is_kept_and_another_is_not_overwritten(generate, photographs, tmp_path):
    options = ("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4")
    assert generate(*options).exit_code == 0
    before = (tmp_path / "v.mp4").stat().st_mtime_ns
    result = generate(*options)
    assert result.exit_code == 0 and "kept" in result.stderr and (tmp_path / "v.mp4").stat().st_mtime_ns == before
    result = generate(*options, "--seed", 9)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert (tmp_path / "v.mp4").stat().st_mtime_ns == before
    assert generate(*options, "--seed", 9, "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "v.json").read_text())["settings"]["seed"] == 9


def test_a_damaged_or_unfinished_video_is_made_again(generate, photographs, tmp_path, files_of):
    options = ("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4")
    assert generate(*options).exit_code == 0
    whole = files_of(tmp_path)
    (tmp_path / "v.json").unlink()  # as if stopped between the video and its sidecar
    assert generate(*options).exit_code == 0
    assert files_of(tmp_path) == whole
    (tmp_path / "v.mp4").write_bytes(whole["v.mp4"] + b"x")
    assert generate(*options).exit_code == 0
    assert files_of(tmp_path) == whole


def test_somebody_elses_file_is_not_overwritten(generate, photographs, tmp_path, files_of):
    (tmp_path / "v.json").write_text("{}")
    result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4")
    assert result.exit_code == 2 and "v.json is there already" in result.stderr
    assert files_of(tmp_path) == {"v.json": b"{}"}


def test_the_sheet_steps_aside_for_a_photograph_of_its_name(generate, photographs, tmp_path):
    photo = tmp_path / "ann.png"
    photo.write_bytes(photographs["ann"].read_bytes())
    assert generate("-r", photo, "-p", PROMPT, "-o", tmp_path / "ann.mp4").exit_code == 0
    assert photo.read_bytes() == photographs["ann"].read_bytes()
    assert (tmp_path / "ann_sheet.png").is_file()


def test_a_prompt_file_and_a_folder_as_output(generate, photographs, tmp_path):
    (tmp_path / "prompt.txt").write_text("a woman\n  smiling\n")
    result = generate(
        "-r", photographs["ann"], "-p", tmp_path / "prompt.txt", "-o", tmp_path / "out", "--no-sheet", "--quiet"
    )
    assert result.exit_code == 0 and result.stderr == ""
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ann_a_woman_smiling_seed0.mp4",
        "ann_a_woman_smiling_seed0.json",
    }
    assert json.loads((tmp_path / "out/ann_a_woman_smiling_seed0.json").read_text())["prompt"] == "a woman smiling"


def test_without_a_photograph_only_if_asked(generate, tmp_path):
    assert "--no-reference" in generate("-p", PROMPT, "-o", tmp_path / "v.mp4").stderr
    result = generate("-p", PROMPT, "--no-reference", "-o", tmp_path / "v.mp4")
    assert result.exit_code == 0 and "nobody in particular" in result.stderr
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["references"] == [] and record["similarity"] == {"mean": None, "frames": []}


def test_face_options(generate, photographs, tmp_path):
    result = generate("-r", photographs["both"], "-p", PROMPT, "-o", tmp_path / "largest.mp4")
    assert result.exit_code == 0 and "warning: both.png: 2 faces" in result.stderr
    result = generate("-r", photographs["both"], "-p", PROMPT, "-o", tmp_path / "left.mp4", "--face-index", 0)
    other = generate("-r", photographs["both"], "-p", PROMPT, "-o", tmp_path / "right.mp4", "--face-index", 1)
    assert result.exit_code == other.exit_code == 0
    assert (tmp_path / "left.mp4").read_bytes() != (tmp_path / "right.mp4").read_bytes()
    result = generate("-r", photographs["dog"], "-p", PROMPT, "-o", tmp_path / "dog.mp4")
    assert result.exit_code == 0 and "No face was found" in result.stderr
    assert json.loads((tmp_path / "dog.json").read_text())["similarity"]["mean"] is None


def test_another_method(generate, photographs, tmp_path):
    result = generate(
        "-r",
        photographs["ann"],
        "-r",
        photographs["bob"],
        "-p",
        PROMPT,
        "--method",
        "concat-id",
        "-o",
        tmp_path / "v.mp4",
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "v.json").read_text())
    assert record["method"]["name"] == "concat-id" and len(record["similarity"]["frames"]) == 2


def test_a_long_prompt_is_cut_with_a_warning(generate, photographs, tmp_path):
    result = generate("-r", photographs["ann"], "-p", "smiling " * 10_000, "-o", tmp_path / "v.mp4")
    assert result.exit_code == 0 and "warning: The prompt is too long" in result.stderr
    assert any("too long" in warning for warning in json.loads((tmp_path / "v.json").read_text())["warnings"])


def test_models_of_drawn_people_say_so_for_real_photographs(generate, photographs, model, tmp_path):
    from likeness.world.folder import draw_photograph, write_photograph

    card = model / "README.md"
    card.write_text("---\nlicense: apache-2.0\ntrained_on: drawn people\n---\n# A model\n")
    try:
        result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "real.mp4")
        assert result.exit_code == 0 and "has only ever seen drawn people" in result.stderr
        write_photograph(tmp_path / "drawn.png", draw_photograph(800_040))
        result = generate("-r", tmp_path / "drawn.png", "-p", PROMPT, "-o", tmp_path / "drawn.mp4", "--no-sheet")
        assert result.exit_code == 0 and "drawn people" not in result.stderr
    finally:
        card.unlink()
    result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "unsaid.mp4")
    assert result.exit_code == 0 and "drawn people" not in result.stderr


def test_clothing_and_background_follow_the_faces(generate, photographs, tmp_path, files_of):
    pictures = ("--background", photographs["bob"], "-r", photographs["ann"], "--clothing", photographs["bob"])
    refused = generate(*pictures, "-p", PROMPT, "-o", tmp_path / "v.mp4")
    assert refused.exit_code == 2 and "at most 1" in refused.stderr and not (tmp_path / "v.mp4").exists()
    result = generate(*pictures, "-p", PROMPT, "--method", "concat-id", "-o", tmp_path / "a/v.mp4")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "a/v.json").read_text())
    assert [item["kind"] for item in record["references"]] == ["face", "clothing", "background"]
    assert [item["face"] is None for item in record["references"]] == [False, True, True]
    # A face is looked for in a photograph of a person, not in the same picture of clothing.
    assert [row[0] is None for row in record["similarity"]["frames"]] == [False, True, True]
    again = generate("--from", tmp_path / "a/v.json", "-o", tmp_path / "b/v.mp4")
    assert again.exit_code == 0 and files_of(tmp_path / "a") == files_of(tmp_path / "b")
