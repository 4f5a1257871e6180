"""Pictures and videos: files in, ``uint8`` RGB arrays out, and back.

Everything a person may have lying about is turned into plain RGB here, so nothing above has to know about EXIF turns,
alpha, palettes, colour profiles, 16-bit samples or rotated telephone videos. What cannot be read is a
:class:`~likeness.errors.UserError` that says what was given, what the rule is and what to do.

Files are written under a temporary name in their folder and renamed when complete: a killed run leaves no half file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from likeness.errors import UserError
from likeness.types import Video

MAX_PICTURE_PIXELS = 100_000_000  # the largest telephone cameras; a bomb is far beyond
MIN_PICTURE_SIDE_PX = 16  # no face can be told from fewer
MAX_VIDEO_BYTES = 8 * 2**30  # decoded frames are held in memory
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # what write_picture can write
VIDEO_METADATA = ("title", "artist", "comment", "description", "copyright", "genre", "date")  # what an MP4 file keeps

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# ---------------------------------------------------------------------------------------------------------- files


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what is written there becomes ``path`` when the block ends well.

    The temporary file has the suffix of ``path`` (writers choose their format by it), is flushed to the disk before
    the rename, and is removed when the block fails, so ``path`` is either complete or untouched. Missing folders are
    made.

    Raises:
        UserError: ``path`` is a folder, its folder cannot be written, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"The output {path} is a folder; a file name is needed, such as {path / 'output'}.")
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise _unwritable(path, error) from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise _unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def share_weights(folder: Path, like: Path) -> None:
    """Give the weights in a folder the rights of a file that was written in the usual way: safetensors leaves what it writes to its
    owner alone, whatever the umask says. Hard links are also somebody else's files and stay as they are."""
    for path in folder.rglob("*.safetensors"):
        if path.stat().st_nlink == 1:
            shutil.copymode(like, path)


def _unwritable(path: Path, error: OSError | ValueError) -> UserError:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return UserError(
            f"The disk filled up (or a limit on the size of files was met) while {path} was being written; nothing of "
            "it was kept. Free some space or choose another folder."
        )
    reason = (isinstance(error, OSError) and error.strerror) or error
    return UserError(f"The output {path} cannot be written: {reason}. Choose a folder in which you may create files.")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, without holding the file in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readable_file(path: Path, noun: str) -> None:
    """Raise a UserError unless ``path`` is a readable file with something in it."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; a {noun} file is needed. Name a file inside it.")
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. Check the spelling and the folder of the {noun}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"The {noun} {path} cannot be opened: {error}. Check its permissions and its name.") from error
    if empty:
        raise UserError(f"The {noun} {path} is empty (0 bytes). Copy or download it again.")


# ------------------------------------------------------------------------------------------------------- pictures


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as people have them.

    Turned by its EXIF orientation, transparency laid on white, palette, grey, 16-bit, CMYK and embedded colour
    profiles (such as a telephone's Display P3) converted to sRGB; the first frame of an animation. HEIC needs the
    package ``pillow-heif``.

    Returns:
        ``uint8 [H, W, 3]`` RGB.

    Raises:
        UserError: missing, empty, not a picture, cut short, more than 100 megapixels (read off the header, before
            anything is decoded) or less than 16 px high or wide.
    """
    path = Path(path)
    _readable_file(path, "picture")
    _register_heif()
    with warnings.catch_warnings():
        # Pillow warns of bombs at its own limit; ours is enforced just below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise _too_many_pixels(path, "") from error
        except Exception as error:  # plugins raise all sorts of things on hostile bytes
            raise _not_a_picture(path) from error
    with image:
        width, height = image.size
        if width * height > MAX_PICTURE_PIXELS:
            raise _too_many_pixels(path, f" ({width} x {height} px)")
        if min(width, height) < MIN_PICTURE_SIDE_PX:
            raise UserError(
                f"The picture {path} has {width} x {height} px: too small to hold a face. Each side must have at "
                f"least {MIN_PICTURE_SIDE_PX} px; give a larger photograph."
            )
        try:
            image.load()
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8).copy()
        except UserError:
            raise
        except Exception as error:  # a decoder may fail in any way on a damaged file
            raise UserError(
                f"The picture {path} is damaged or cut short ({error}). Copy or download it again, or export it anew "
                "as PNG or JPEG."
            ) from error


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write ``uint8 [H, W, 3]`` RGB to a ``.png``, ``.jpg`` or ``.webp`` file, atomically.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise UserError(f"The picture {path} cannot be written: its name must end in {', '.join(PICTURE_SUFFIXES)}.")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise UserError(f"A picture must be uint8 [H, W, 3]; {picture.dtype} {list(picture.shape)} was given.")
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=95)


def _not_a_picture(path: Path) -> UserError:
    try:
        import pillow_heif  # noqa: F401  (its plugin was registered by _register_heif)

        heif_hint = ""
    except ImportError:
        heif_hint = " For HEIC files install pillow-heif: pip install pillow-heif."
    return UserError(
        f"The file {path} is not a picture that can be read, whatever its name says. Give a JPEG, PNG, WebP, AVIF, "
        f"HEIC, GIF, BMP or TIFF file, or open it in a picture program and export it as PNG.{heif_hint}"
    )


def _too_many_pixels(path: Path, size: str) -> UserError:
    return UserError(
        f"The picture {path} has too many pixels{size}; the limit is {MAX_PICTURE_PIXELS // 10**6} megapixels. "
        "Scale it down first: a face needs no more than a few hundred px."
    )


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return  # pictures of other formats need no help; _not_a_picture names the missing package
    pillow_heif.register_heif_opener()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's to RGB in sRGB, transparency laid on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_grey_to_rgb(image)
    if image.mode in ("CMYK", "YCbCr", "LAB"):
        return _to_srgb(image, profile)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return _to_srgb(Image.alpha_composite(white, rgba).convert("RGB"), profile)
    if image.mode == "L":
        return image.convert("RGB")  # a profile of one grey channel says nothing about RGB
    return _to_srgb(image.convert("RGB"), profile)


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey to RGB. Pillow's own conversion clips at 255 and turns such pictures white."""
    samples = np.asarray(image)
    if image.mode == "F" or samples.min() < 0 or samples.max() > 65535:
        raise UserError(
            f"The picture holds samples from {samples.min():g} to {samples.max():g} whose meaning is not known; 8 and "
            "16 bits a channel can be read. Export it as 8-bit PNG."
        )
    return Image.fromarray(((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken profile, or one for another mode: the plain conversion is what viewers do
        if converted is not None:
            return converted
    return image.convert("RGB")


# --------------------------------------------------------------------------------------------------------- videos


def read_video(path: str | os.PathLike[str]) -> Video:
    """Read all frames of the first video stream, turned as its rotation metadata says.

    Returns:
        A :class:`Video`; ``fps`` is the stream's average rate.

    Raises:
        UserError: missing, empty, damaged, not a video, without pictures (sound alone), or more than 8 GiB decoded.
    """
    import av
    from av.error import FFmpegError
    from av.video.reformatter import Interpolation

    path = Path(path)
    _readable_file(path, "video")
    # Swscale's default rounds down and takes the nearest chroma sample: about 1 dB and a tint of 1/255 worse.
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    frames: list[np.ndarray] = []
    size_bytes = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(
                    f"The file {path} has no pictures, only sound or data. Give a file with a video stream."
                )
            stream = container.streams.video[0]
            fps = stream.average_rate or stream.guessed_rate
            for frame in container.decode(stream):
                picture = np.rot90(frame.to_ndarray(format="rgb24", interpolation=exact), k=round(frame.rotation / 90))
                size_bytes += picture.nbytes
                if size_bytes > MAX_VIDEO_BYTES:
                    raise UserError(
                        f"The video {path} is too long to be held in memory (more than {MAX_VIDEO_BYTES >> 30} GiB "
                        "decoded). Cut it into shorter clips first."
                    )
                if frames and picture.shape != frames[0].shape:
                    raise UserError(
                        f"The size of the pictures changes within the video {path}. Convert it to MP4 first."
                    )
                frames.append(np.ascontiguousarray(picture))
    except FFmpegError as error:
        raise UserError(
            f"The file {path} is not a video that can be read, or it is damaged ({error.strerror}). Copy it again, or "
            "convert it to MP4 (H.264)."
        ) from error
    if not frames:
        raise UserError(f"The video {path} holds no frame that can be decoded. Copy it again or convert it to MP4.")
    if not fps:
        raise UserError(f"The file {path} does not say its frame rate; it may be a single picture. Give a video.")
    return Video(np.stack(frames), float(fps))


def write_video(
    path: str | os.PathLike[str], video: Video, *, crf: int = 16, metadata: Mapping[str, str] | None = None
) -> None:
    """Write an MP4 file that browsers play: H.264 High, yuv420p, BT.709, index at the front. Atomic.

    The same frames give the same bytes on the same machine: one encoder thread and no times of
    writing.

    Args:
        path: must end in ``.mp4``.
        video: sides must be even (a rule of yuv420p).
        crf: constant rate factor of x264: 1 (largest) to 51 (worst).
        metadata: texts by the names in ``VIDEO_METADATA``; ``comment`` is where a note of origin belongs.

    Raises:
        UserError: another suffix, an odd size, a crf out of range, an unknown metadata name, or the file
            cannot be written.
    """
    path = Path(path)
    _check_video_request(path, video, crf, metadata or {})
    with atomic_write(path) as temporary:
        _encode_h264(temporary, video, crf, metadata or {})


def _check_video_request(path: Path, video: Video, crf: int, metadata: Mapping[str, str]) -> None:
    height, width = video.height, video.width
    if path.suffix.lower() != ".mp4":
        raise UserError(f"The video {path} cannot be written: its name must end in .mp4.")
    if height % 2 or width % 2:
        raise UserError(
            f"A video of {width} x {height} px cannot be written: H.264 needs even sides. "
            f"Use {width + width % 2} x {height + height % 2} px."
        )
    if not 1 <= crf <= 51:
        raise UserError(f"crf {crf} was given; it must lie in 1 (largest file) to 51 (worst picture). 16 is good.")
    if unknown := sorted(set(metadata) - set(VIDEO_METADATA)):
        raise UserError(f"An MP4 file keeps no metadata named {', '.join(unknown)}. Use {', '.join(VIDEO_METADATA)}.")


def _encode_h264(path: Path, video: Video, crf: int, metadata: Mapping[str, str]) -> None:
    import av
    from av.codec.context import Flags
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

    # bitexact keeps the muxer's version out of the file, so that fewer upgrades change its bytes.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        container.metadata.update(metadata)
        rate = Fraction(video.fps).limit_denominator(1001)
        # The macroblock tree, in some builds of x264, reads beyond very small frames: other bytes now and then.
        options = {"crf": str(crf), "profile": "high", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # x264's slicing, and so its bytes, depend on the number of threads
        context.flags |= int(Flags.bitexact)
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index, pixels in enumerate(video.frames):
            # Without the explicit target swscale converts by BT.601, and players that read the tag shift the colours.
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                dst_color_trc=ColorTrc.BT709,
                dst_color_primaries=ColorPrimaries.BT709,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
                threads=1,  # on several, the conversion differs now and then in a few pixels
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
