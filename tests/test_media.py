"""Pictures as people have them: what is read, what is refused and with which words; files that are written whole."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from likeness.errors import UserError
from likeness.media import (
    MAX_PICTURE_PIXELS,
    atomic_write,
    read_picture,
    sha256_bytes,
    sha256_file,
    share_weights,
    write_picture,
)

LEFT, RIGHT = (200, 40, 30), (20, 90, 210)


def two_halves(height: int = 40, width: int = 60) -> np.ndarray:
    """Red on the left, blue on the right."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2] = LEFT
    picture[:, width // 2 :] = RIGHT
    return picture


def close(picture: np.ndarray, expected: np.ndarray, tolerance: int = 3) -> bool:
    return (
        picture.shape == expected.shape and int(np.abs(picture.astype(int) - expected.astype(int)).max()) <= tolerance
    )


# ------------------------------------------------------------------------------------------------ pictures that are read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_by_its_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = two_halves()
    upright[:8, :8] = 255  # with a corner marked, every turn and flip shows
    # How the sensor's picture must lie so that the orientation tag turns it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_picture(path), upright)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([two_halves(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:30, :, 3] = 128
    path = tmp_path / "clear.png"
    Image.fromarray(rgba).save(path)
    picture = read_picture(path)
    assert (picture[:20] == 255).all()
    assert close(picture[25:26, :1], np.full((1, 1, 3), [227, 147, 142], np.uint8), 1)
    assert np.array_equal(picture[30:], two_halves()[30:])


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    grey = np.full((20, 20, 2), [80, 255], np.uint8)
    grey[:10, :, 1] = 0
    path = tmp_path / "la.png"
    Image.fromarray(grey, "LA").save(path)
    picture = read_picture(path)
    assert (picture[:10] == 255).all() and (picture[10:] == 80).all()


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_is_looked_up(tmp_path: Path, transparent: bool) -> None:
    indices = Image.fromarray((np.arange(60) >= 30)[None].repeat(40, 0).astype(np.uint8), "L").convert("P")
    indices.putpalette([*LEFT, *RIGHT])
    path = tmp_path / "palette.png"
    indices.save(path, **({"transparency": 0} if transparent else {}))
    expected = two_halves()
    if transparent:
        expected[:, :30] = 255
    assert np.array_equal(read_picture(path), expected)


def test_sixteen_bit_grey_keeps_its_tones(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(20, 0)
    path = tmp_path / "deep.png"
    Image.fromarray(ramp).save(path)
    expected = np.rint(ramp / 257).astype(np.uint8)[..., None].repeat(3, -1)
    assert close(read_picture(path), expected, 1)


def png_of_16_bit_rgb(samples: np.ndarray) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_16_bit_rgb(two_halves().astype(np.uint16) * 257))
    assert close(read_picture(path), two_halves(), 1)


def test_samples_of_unknown_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.full((20, 20), 3.5, np.float32)).save(path)
    with pytest.raises(UserError, match="Export it as 8-bit PNG"):
        read_picture(path)


def test_cmyk_and_grey_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(two_halves()).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    picture = read_picture(tmp_path / "print.jpg")
    assert close(picture[:, :20], two_halves()[:, :20], 12) and close(picture[:, 40:], two_halves()[:, 40:], 12)
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(tmp_path / "grey.png")
    assert (read_picture(tmp_path / "grey.png") == 77).all()


def test_a_colour_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    path = tmp_path / "profile.png"
    lab_to_srgb = ImageCms.createProfile("sRGB")
    same = ImageCms.ImageCmsProfile(lab_to_srgb).tobytes()
    Image.fromarray(two_halves()).save(path, icc_profile=same)
    assert close(read_picture(path), two_halves(), 1)
    Image.fromarray(two_halves()).save(path, icc_profile=b"no profile at all")
    assert np.array_equal(read_picture(path), two_halves())


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    first, second = Image.fromarray(two_halves()), Image.fromarray(255 - two_halves())
    first.save(tmp_path / "wave.webp", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(read_picture(tmp_path / "wave.webp"), two_halves())


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_telephone_formats_are_read(tmp_path: Path, suffix: str) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.register_heif_opener()
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(two_halves(64, 64)).save(path, quality=95)
    picture = read_picture(path)
    assert close(picture[:, :24], two_halves(64, 64)[:, :24], 10)


def test_heic_without_its_reader_names_the_package(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed").register_heif_opener()
    path = tmp_path / "photo.heic"
    Image.fromarray(two_halves(64, 64)).save(path)
    code = f"""
import sys
sys.modules["pillow_heif"] = None
from likeness.media import read_picture
from likeness.errors import UserError
try:
    read_picture({str(path)!r})
except UserError as error:
    assert "pip install pillow-heif" in str(error), error
else:
    raise SystemExit("the picture was read")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------- pictures that are refused


def png_header(width: int, height: int) -> bytes:
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in (data, idat)
    )


REFUSED_PICTURES = {
    "empty.jpg": (b"", "0 bytes"),
    "text.jpg": (b"Dear grandmother, here is my photograph.\n" * 20, "is not a picture"),
    "bomb.png": (png_header(50_000, 50_000), "100 megapixels"),
    "wide.png": (png_header(20_000, 6_000), "20000 x 6000 px"),
    "dot.png": (png_header(1, 1), "too small to hold a face"),
    "strip.png": (png_header(500, 15), "at least 16 px"),
}


@pytest.mark.parametrize("name", REFUSED_PICTURES)
def test_a_file_that_is_no_usable_picture_is_refused(tmp_path: Path, name: str) -> None:
    data, message = REFUSED_PICTURES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)


def test_the_limit_of_pixels_lies_between_a_large_camera_and_a_bomb() -> None:
    assert 12_000 * 8_000 < MAX_PICTURE_PIXELS < 20_000 * 6_000


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read_picture(tmp_path / "nobody.jpg")
    with pytest.raises(UserError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(UserError, match="cannot be opened"):
        read_picture(f"{tmp_path}/\0.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif"])
def test_a_picture_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, Image.registered_extensions()[suffix])
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(UserError, match=r"cut short|not a picture"):
        read_picture(path)


# --------------------------------------------------------------------------------------------------------- writing files


def test_a_picture_comes_back(tmp_path: Path) -> None:
    write_picture(tmp_path / "new" / "out.png", two_halves())
    assert np.array_equal(read_picture(tmp_path / "new" / "out.png"), two_halves())
    write_picture(tmp_path / "out.jpg", two_halves())
    assert close(read_picture(tmp_path / "out.jpg")[:, :20], two_halves()[:, :20], 4)
    with pytest.raises(UserError, match=r"must end in \.png"):
        write_picture(tmp_path / "out.exe", two_halves())
    with pytest.raises(UserError, match=r"float64 \[40, 60, 3\]"):
        write_picture(tmp_path / "out.png", two_halves() / 255)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_complete_write_replaces_the_old_file_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    usual = path.stat().st_mode
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_mode == usual
    assert os.listdir(tmp_path) == ["result.txt"]


def test_weights_are_not_left_to_their_owner_alone(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    own, foreign = tmp_path / "model" / "part" / "own.safetensors", tmp_path / "foreign.safetensors"
    own.parent.mkdir(parents=True)
    for file in (own, foreign):
        save_file({"x": np.zeros(2)}, file)
        file.chmod(0o600)
    os.link(foreign, own.with_name("linked.safetensors"))
    usual = tmp_path / "model" / "index.json"
    usual.write_text("{}")
    usual.chmod(0o640)
    share_weights(tmp_path / "model", usual)
    assert own.stat().st_mode & 0o777 == 0o640 and foreign.stat().st_mode & 0o777 == 0o600


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "out.mp4", "cannot be written"),
        (tmp_path / "\0.mp4", "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message), atomic_write(path):
            raise AssertionError("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "out.mp4"):
        raise AssertionError("the block must not run")


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: the writes fail half-way in the same manner."""
    code = f"""
import resource, signal
import numpy as np
from likeness.errors import UserError
from likeness.media import write_picture, write_video
from likeness.types import Video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 255, (4, 256, 256, 3), dtype=np.uint8)
for write, name, value in ((write_picture, "a.png", noise[0]), (write_video, "a.mp4", Video(noise, 8.0))):
    try:
        write({str(tmp_path)!r} + "/" + name, value)
    except UserError as error:
        assert "The disk filled up" in str(error), error
    else:
        raise SystemExit(name + " was written")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert os.listdir(tmp_path) == []


def test_a_mistake_inside_the_block_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "out.txt"):
        (tmp_path / "missing input").read_text()
    assert caught.value.errno == errno.ENOENT


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "file") == known
