"""Files that somebody may take for videos, made cheaply from one good clip: what each is, and what must come of it."""

import io
import random
import wave

import numpy as np
from evaluation_parts import grey_clip
from PIL import Image

# kind -> the status it must have; None: whatever it is, it needs a reason unless it is ok.
KINDS = {
    "good": "ok",
    "one frame": "ok",
    "moving picture": "ok",  # an animated GIF
    "trailing bytes": "ok",
    "missing": "missing",
    "a folder": "missing",
    "a link to nothing": "missing",
    "empty": "unreadable",
    "text": "unreadable",
    "web page": "unreadable",
    "a picture": "unreadable",
    "sound": "unreadable",
    "cut short": "unreadable",
    "header alone": "unreadable",
    "noise": "unreadable",
    "beginning lost": "unreadable",
    "bytes turned": None,
}


def make(kind, path, clip, one_frame, seed):
    """Write a file of a kind; `clip` and `one_frame` are the bytes of good videos."""
    rng = random.Random(seed)
    if kind == "missing":
        return
    if kind == "a folder":
        path.mkdir()
        return
    if kind == "a link to nothing":
        path.symlink_to(path.with_name("nothing.mp4"))
        return
    data = {
        "good": lambda: clip,
        "one frame": lambda: one_frame,
        "moving picture": lambda: _gif(rng),
        "trailing bytes": lambda: clip + b"\0\0\0\x10free" + bytes(8),
        "empty": lambda: b"",
        "text": lambda: b"404: not found\n" * (1 + seed % 50),
        "web page": lambda: b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "a picture": lambda: _picture(rng),
        "sound": lambda: _sound(),
        "cut short": lambda: clip[: rng.randrange(len(clip) * 2 // 3, len(clip) - 20)],
        "header alone": lambda: clip[: rng.randrange(8, 400)],
        "noise": lambda: rng.randbytes(rng.randrange(10, 4000)),
        "beginning lost": lambda: clip[rng.randrange(500, 900) :],
        "bytes turned": lambda: _turned(clip, rng),
    }[kind]()
    path.write_bytes(data)


def good_bytes(folder):
    """A clip of 20 frames and a clip of one."""
    noise = np.random.default_rng(0).integers(0, 255, 20)
    return (
        grey_clip(folder / "clip.mp4", noise, size=32).read_bytes(),
        grey_clip(folder / "one.mp4", [90], size=32).read_bytes(),
    )


def _turned(clip, rng):
    data = bytearray(clip)
    for _ in range(20):
        data[rng.randrange(len(data) // 3, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _picture(rng):
    file = io.BytesIO()
    Image.new("RGB", (20 + rng.randrange(20), 20), "red").save(file, rng.choice(["PNG", "JPEG", "WEBP"]))
    return file.getvalue()


def _gif(rng):
    file = io.BytesIO()
    pictures = [Image.new("RGB", (32, 32), (40 * n, 10, rng.randrange(250))) for n in range(5)]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return file.getvalue()


def _sound():
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    return file.getvalue()
