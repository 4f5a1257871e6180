"""Long videos cut where the picture changes, by PySceneDetect's adaptive detector.

A shot is a span of its file: nothing is written. A video that cannot be read is left as one clip, whose row will say why; one
without a cut as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context

from likeness.curate.container import opened
from likeness.curate.types import ClipSource
from likeness.errors import UserError

DEADLINE_S = 4 * 3600.0  # for a video of many hours; what takes longer hangs
MIN_SHOT_S = 0.6  # flashes and fast cuts below stay with the shot before


def cut_into_shots(
    sources: Sequence[ClipSource], *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> list[ClipSource]:
    """The shots of videos, in their order; a source with a span of its own stays as it is.

    Args:
        workers: processes that look for cuts, each in one video at a time.
        progress: is told how many videos are done, and of how many.

    Raises:
        UserError: PySceneDetect or Pebble is not installed.
    """
    try:
        import pebble  # noqa: F401
        import scenedetect  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Cutting videos into shots needs PySceneDetect and Pebble: pip install 'likeness[curate]'."
        ) from error
    paths = list(dict.fromkeys(source.path for source in sources if _is_whole(source)))
    found: dict[str, list[float]] = {}
    for done, (path, cuts) in enumerate(zip(paths, _all_cuts(paths, workers), strict=True), 1):
        found[path] = cuts
        if progress:
            progress(done, len(paths))
    return [shot for source in sources for shot in _shots(source, found.get(source.path, []))]


def cuts_of(path: str) -> list[float]:
    """Where the picture changes: times in seconds from the first frame, ascending; none for a video that cannot be read."""
    from scenedetect import AdaptiveDetector, SceneManager, open_video

    logging.getLogger("pyscenedetect").setLevel(logging.ERROR)
    try:
        with opened(ClipSource(path=path)) as container:
            stream = container.streams.video[0]
            start_s = float((stream.start_time or 0) * stream.time_base)
        video = open_video(path, backend="pyav")
        manager = SceneManager()
        manager.add_detector(AdaptiveDetector(min_scene_len=f"{MIN_SHOT_S}s"))
        manager.detect_scenes(video)
        return [begin.seconds - start_s for begin, _ in manager.get_scene_list()[1:]]
    except Exception:  # PySceneDetect and PyAV raise many types; measuring the file will say what is wrong
        return []


def _all_cuts(paths: Sequence[str], workers: int) -> Iterator[list[float]]:
    """The cuts of each video; in processes of their own, since a broken file can bring a decoder down."""
    from pebble import ProcessExpired, ProcessPool

    pool = ProcessPool(max_workers=workers, context=get_context("spawn"))
    try:
        results = pool.map(cuts_of, paths, timeout=DEADLINE_S).result()
        for _ in paths:
            try:
                yield next(results)
            except (ProcessExpired, TimeoutError):
                yield []
    finally:
        pool.stop()
        pool.join()


def _is_whole(source: ClipSource) -> bool:
    return source.start_s == 0.0 and source.end_s is None


def _shots(source: ClipSource, cuts: Sequence[float]) -> list[ClipSource]:
    if not cuts or not _is_whole(source):
        return [source]
    edges = [0.0, *cuts, None]
    return [
        replace(source, start_s=start, end_s=end, origin=f"{source.origin}, shot {number}")
        for number, (start, end) in enumerate(pairwise(edges), 1)
    ]
