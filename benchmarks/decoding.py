"""Samples of a clip, by planned decoding and by others: `python benchmarks/decoding.py [--seconds 10] [--height 720] [--rounds 9]`.

Encodes a clip of H.264 with a key frame every 30 and every 250 frames (drawn texture that moves, with noise), then takes two samples
a second by each way, alternately in one process and one thread: planned decoding, PyAV decoding everything, OpenCV skipping with
`grab`, and torchcodec where it is installed. CPU time, medians; every way converts its samples to RGB. Samples of the planned way
and of the whole decode are compared to the bit.

A machine without FFmpeg's shared libraries cannot load torchcodec; it is left out then, and said so.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

FPS, PER_SECOND = 30, 2
Way = Callable[[Path], list[np.ndarray]]


def encode(path: Path, *, seconds: float, height: int, gop: int) -> None:
    """A clip of 16:9 that moves in every pixel."""
    import cv2

    width = height * 16 // 9 // 2 * 2
    noise = np.random.default_rng(0)
    texture = noise.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8)
    texture = cv2.resize(texture, (2 * width, height + 64), interpolation=cv2.INTER_CUBIC)

    def pictures() -> Iterator[np.ndarray]:
        for index in range(round(seconds * FPS)):
            left, top = 3 * index % width, round(32 + 30 * np.sin(index / 9))
            grain = noise.integers(-6, 7, (height, width, 1))
            yield np.clip(texture[top : top + height, left : left + width] + grain, 0, 255).astype(np.uint8)

    write_h264(path, pictures(), gop)


def write_h264(path: Path, pictures: Iterable[np.ndarray], gop: int) -> None:
    """Pictures ``uint8 [H, W, 3]`` as x264 stores them by default: closed groups, three B-frames."""
    import av

    options = {"preset": "medium", "crf": "23", "g": str(gop), "keyint_min": str(gop)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        for pixels in pictures:
            if not stream.codec_context.is_open:
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))


def planned(path: Path) -> list[np.ndarray]:
    from likeness.curate.decode import read_samples, read_timeline
    from likeness.curate.types import ClipSource

    source = ClipSource(path=str(path))
    return [sample.picture for sample in read_samples(source, read_timeline(source, PER_SECOND))]


def everything(path: Path) -> list[np.ndarray]:
    """PyAV, as it is used by default, on one thread; only the samples are converted."""
    import av

    from likeness.curate.decode import shown_picture

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = FPS // PER_SECOND
        return [shown_picture(frame)[0] for index, frame in enumerate(container.decode(stream)) if index % step == 0]


def opencv(path: Path) -> list[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    pictures, index = [], 0
    while capture.grab():
        if index % (FPS // PER_SECOND) == 0:
            pictures.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        index += 1
    capture.release()
    return pictures


def torchcodec(path: Path) -> list[np.ndarray]:
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
    end = decoder.metadata.duration_seconds or 0.0
    frames = decoder.get_frames_played_at(seconds=[k / PER_SECOND for k in range(int(end * PER_SECOND))])
    return [frame.permute(1, 2, 0).numpy() for frame in frames.data]


def ways() -> dict[str, Way]:
    """The ways that can be taken here."""
    found: dict[str, Way] = {"planned": planned, "PyAV, everything": everything, "OpenCV, grab": opencv}
    try:
        import torchcodec as library  # pyright: ignore[reportMissingImports]
        from torchcodec.decoders import VideoDecoder  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).strip().splitlines()[0]:.100}")
        return found
    return found | {f"torchcodec {library.__version__}": torchcodec}


def measure(path: Path, found: dict[str, Way], rounds: int) -> dict[str, float]:
    """Median CPU seconds a clip of each way, taken in turns; the first turn warms up."""
    first, *_ = (way(path) for way in found.values())
    whole = everything(path)
    assert len(first) == len(whole) and all(map(np.array_equal, first, whole)), "planned decoding must change no pixel"
    spent: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, way in found.items():
            start = time.process_time()
            way(path)
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a row a way: CPU milliseconds a clip, by distance of key frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gops", type=int, nargs="+", default=[250, 30])
    given = parser.parse_args(arguments)
    import av
    import cv2

    cv2.setNumThreads(1)
    found = ways()
    print(f"{platform.machine()}, one thread; PyAV {av.__version__}, OpenCV {cv2.__version__}")
    figures: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for gop in given.gops:
            path = Path(name, f"{gop}.mp4")
            encode(path, seconds=given.seconds, height=given.height, gop=gop)
            figures[gop] = measure(path, found, given.rounds)
    print("| way | " + " | ".join(f"ms, key frame every {gop}" for gop in given.gops) + " | times planned |")
    print("| --- " * (len(given.gops) + 2) + "|")
    for way in found:
        cells = [f"{1e3 * figures[gop][way]:.0f}" for gop in given.gops]
        ratios = [f"{figures[gop][way] / figures[gop]['planned']:.2f}" for gop in given.gops]
        print(f"| {way} | {' | '.join(cells)} | {' / '.join(ratios)} |")


if __name__ == "__main__":
    main()
