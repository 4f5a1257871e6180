"""Mistakes people make: one line that says what is wrong and what to do, exit code 2, and nothing left behind."""

import json
import shutil
import struct
import zlib

import pytest
from typer.testing import CliRunner

from likeness.cli import app

PROMPT = "a woman smiling"


def one_error_line(result):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


def png_header(width, height):
    """A PNG that claims to be of this size and holds no pixels to speak of."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def out(tmp_path):
    """An output folder that holds something already, which must not change."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jpg", None, ("none.jpg", "Check the spelling")),
        ("text.jpg", b"this is no picture", ("text.jpg", "not a picture", "PNG")),
        ("zero.jpg", b"", ("zero.jpg", "0 bytes", "again")),
        ("bomb.png", png_header(50_000, 50_000), ("bomb.png", "too many pixels", "Scale it down")),
        ("dot.png", png_header(1, 1), ("dot.png", "1 x 1", "larger")),
        ("cut.png", png_header(64, 64), ("cut.png", "damaged", "again")),
    ],
    ids=["missing", "text", "zero", "bomb", "dot", "cut"],
)
def test_photographs(generate, out, tmp_path, files_of, name, content, words):
    photo = tmp_path / name
    if content is not None:
        photo.write_bytes(content)
    line = one_error_line(generate("-r", photo, "-p", PROMPT, "-o", out / "v.mp4"))
    assert all(word in line for word in words), line
    assert files_of(out) == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-p", ""), ("prompt is empty", "Say what happens")),
        (("-p", " \n\t"), ("prompt is empty", "Say what happens")),
        (("-p", "missing.txt"), ("missing.txt", "Check the path")),
        (("-p", PROMPT, "--steps", "0"), ("steps 0", "at least 1")),
        (("-p", PROMPT, "--steps", "-3"), ("steps -3", "at least 1")),
        (("-p", PROMPT, "--steps", "many"), ("--steps", "integer", "--help")),
        (("-p", PROMPT, "--num-frames", "80"), ("80 frames", "77 or 81")),
        (("-p", PROMPT, "--num-frames", "0"), ("0", "at least 1")),
        (("-p", PROMPT, "--height", "33"), ("33", "32 or 48")),
        (("-p", PROMPT, "--width", "-16"), ("-16", "at least 1")),
        (("-p", PROMPT, "--fps", "0"), ("frame rate 0", "above 0")),
        (("-p", PROMPT, "--fps", "nan"), ("frame rate nan", "above 0")),
        (("-p", PROMPT, "--text-guidance", "nan"), ("text guidance nan", "finite")),
        (("-p", PROMPT, "--reference-guidance", "inf"), ("reference guidance inf", "finite")),
        (("-p", PROMPT, "--seed", "-1"), ("seed -1", "from 0")),
        (("-p", PROMPT, "--seed", str(2**64)), (str(2**64), "from 0")),
        (("-p", PROMPT, "--face-index", "-1"), ("face index -1", "0 first")),
        (("-p", PROMPT, "--face-index", "5"), ("--face-index 5", "1 face")),
        (("-p", PROMPT, "--device", "toaster"), ("toaster", "cpu")),
        (("-p", PROMPT, "--device", "cuda:77"), ("cuda:77", "--device cpu")),
        (("-p", PROMPT, "--method", "magic"), ("magic", "st-drc")),
        (("-p", PROMPT, "--model", "huge"), ("huge", "tiny")),
        (("-p", PROMPT, "--model", "missing/folder"), ("missing/folder", "tiny")),
        (("-p", PROMPT, "--no-reference"), ("contradict", "one of them")),
        (("-p", PROMPT, "--batch", "b.txt"), ("--batch", "Leave out")),
        (("-p", PROMPT, "--colour", "red"), ("--colour", "--help")),
        ((), ("no prompt", "--prompt")),
    ],
)
def test_options(generate, photographs, out, files_of, options, words):
    line = one_error_line(generate("-r", photographs["ann"], "-o", out / "v.mp4", *options))
    assert all(word in line for word in words), line
    assert files_of(out) == {"mine.txt": b"mine"}


def test_a_photograph_without_a_face_where_one_is_required(generate, photographs, out, files_of):
    line = one_error_line(generate("-r", photographs["dog"], "-p", PROMPT, "--require-face", "-o", out / "v.mp4"))
    assert "dog.png" in line and "No face" in line and "--require-face" in line
    assert files_of(out) == {"mine.txt": b"mine"}


def test_more_photographs_than_the_method_takes(generate, photographs, out):
    line = one_error_line(
        generate("-r", photographs["ann"], "-r", photographs["bob"], "-p", PROMPT, "-o", out / "v.mp4")
    )
    assert "2 references" in line and "at most 1" in line


def test_a_picture_as_prompt(generate, photographs, out):
    line = one_error_line(generate("-r", photographs["ann"], "-p", photographs["bob"], "-o", out / "v.mp4"))
    assert "bob.png is a picture" in line and "--reference" in line


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("file/v.mp4", ("file is a file", "another --output")),
        ("file", ("is a file", "folder")),
        ("v.avi", ("v.avi", ".mp4")),
        ("folder.mp4", ("is a folder", "another --output")),
    ],
)
def test_outputs(generate, photographs, tmp_path, files_of, output, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.mp4").mkdir()
    line = one_error_line(generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / output))
    assert all(word in line for word in words), line
    assert files_of(tmp_path) == {"file": b"mine"}


def remove(path):
    path.unlink()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


def garble(path):
    path.write_text("{ this is no JSON")


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model_index.json", remove, "is missing"),
        ("model_index.json", garble, "is not JSON"),
        ("method.json", remove, "method.json"),
        ("method.json", garble, "not JSON"),
        ("transformer/config.json", garble, "is not JSON"),
        ("transformer/diffusion_pytorch_model.safetensors", remove, "is missing"),
        ("transformer/diffusion_pytorch_model.safetensors", cut_short, "broken or cut short"),
        ("vae/diffusion_pytorch_model.safetensors", cut_short, "broken or cut short"),
        ("text_encoder/model.safetensors", garble, "broken or cut short"),
        ("tokenizer/tokenizer.json", garble, "tokenizer"),
        ("scheduler/scheduler_config.json", remove, "is missing"),
    ],
)
def test_broken_model_folders(generate, model, photographs, out, tmp_path, files_of, name, damage, words):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    damage(broken / name)
    line = one_error_line(generate("--model", broken, "-r", photographs["ann"], "-p", PROMPT, "-o", out / "v.mp4"))
    assert words in line and name.split("/")[0] in line, line
    assert files_of(out) == {"mine.txt": b"mine"}


def test_an_empty_folder_is_no_model(generate, photographs, out, tmp_path):
    (tmp_path / "empty").mkdir()
    line = one_error_line(
        generate("--model", tmp_path / "empty", "-r", photographs["ann"], "-p", PROMPT, "-o", out / "v.mp4")
    )
    assert "empty has no method.json" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("there is no sidecar",)),
        (b"\xff\xfe", ("not JSON",)),
        (b"[1]", ("not a sidecar",)),
        (json.dumps({"format": 1, "settings": {}}).encode(), ("prompt", "another version")),
        (
            json.dumps({"format": 1, "settings": {"colour": 1}, "prompt": "p", "model_name": "tiny"}).encode(),
            ("colour",),
        ),
    ],
)
def test_sidecars(out, tmp_path, files_of, content, words):
    path = tmp_path / "s.json"
    if content is not None:
        path.write_bytes(content)
    line = one_error_line(CliRunner().invoke(app, ["generate", "--from", str(path), "-o", str(out / "v.mp4")]))
    assert all(word in line for word in words), line
    assert files_of(out) == {"mine.txt": b"mine"}


def test_batch_files(generate, out, tmp_path, files_of):
    (tmp_path / "b.txt").write_text("a prompt without a photograph\n")
    assert "b.txt line 1" in one_error_line(generate("--batch", tmp_path / "b.txt", "-o", out))
    assert "no batch file" in one_error_line(generate("--batch", tmp_path / "c.txt", "-o", out))
    (tmp_path / "b.txt").write_text("a@@a.png\nb@@b.png\n")
    assert "Give a folder" in one_error_line(generate("--batch", tmp_path / "b.txt", "-o", out / "v.mp4"))
    assert files_of(out) == {"mine.txt": b"mine"}


def test_a_full_disk(generate, photographs, out, files_of, monkeypatch):
    import errno

    import likeness.media

    def full(path, *args):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(likeness.media, "_encode_h264", full)
    line = one_error_line(generate("-r", photographs["ann"], "-p", PROMPT, "-o", out / "v.mp4"))
    assert "disk filled up" in line and "Free some space" in line
    assert files_of(out) == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 20 GiB", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory(generate, photographs, out, files_of, monkeypatch, message):
    from likeness.backbones.wan import WanBackbone

    def starve(*args):
        raise RuntimeError(message)

    monkeypatch.setattr(WanBackbone, "predict", starve)
    line = one_error_line(generate("-r", photographs["ann"], "-p", PROMPT, "-o", out / "v.mp4"))
    assert "memory ran out" in line and "--num-frames" in line
    assert files_of(out) == {"mine.txt": b"mine"}


def test_a_fault_of_the_program_is_one_line_too_unless_debugged(generate, photographs, out, monkeypatch):
    from likeness.backbones.wan import WanBackbone

    def fault(*args):
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(WanBackbone, "predict", fault)
    options = ("-r", photographs["ann"], "-p", PROMPT, "-o", out / "v.mp4")
    result = generate(*options)
    assert result.exit_code == 1 and "unexpected ZeroDivisionError: by design" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    debugged = generate(*options, LIKENESS_DEBUG="1")
    assert isinstance(debugged.exception, ZeroDivisionError)
