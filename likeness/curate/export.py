"""Pairs of a dataset as Concat-ID's lists, which :func:`likeness.train.pairs.read_pairs` reads.

```
EXPORT/pretraining.json, cross.json, tradeoff.json     [{"video_path", "caption", "image_path"}], several references joined by @@
EXPORT/shots/<key>.mp4                                  clips that are a span of a longer video, cut out
```

Paths of what lies in the dataset are relative to the list, so that a dataset can be moved as a whole; videos are named where they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from likeness.curate.cut import cut
from likeness.curate.record import Dataset, read_table
from likeness.curate.verdicts import CLIPS, FACES
from likeness.errors import UserError
from likeness.media import atomic_write

SEPARATOR = "@@"
_AT_ONCE = 65536  # rows of pairs


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        lists: number of pairs by the list that they are in.
        uncaptioned: pairs that were left out, since their clip has no caption.
        shots: clips that were cut out of longer videos.
    """

    lists: Mapping[Path, int]
    uncaptioned: int
    shots: int


def export_pairs(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    caption: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the pairs of each kind as a list, those that are used.

    Args:
        folder: of the dataset.
        output: folder to write to; None for ``export`` in the dataset.
        caption: of clips that have none; None leaves them out.
        progress: called with the number of pairs that are through and of all.

    Raises:
        UserError: no dataset, no pairs, a shot that cannot be cut, or an output that cannot be written.
        CheckpointError: a table of the dataset is damaged.
    """
    dataset = Dataset.open(folder)
    output = dataset.folder / "export" if output is None else Path(output).absolute()
    paths = sorted((dataset.folder / "pairs").glob("*.parquet"))
    if not paths:
        raise UserError(f"The dataset {dataset.folder} has no pairs yet. Run `likeness curate` to its end first.")
    pairs = {path.stem: used_pairs(read_table(path, ["clip", "references", "reason"])) for path in paths}
    writer = _Writer(dataset, output, caption)
    total, done, lists = sum(map(len, pairs.values())), 0, {}
    for kind, table in pairs.items():
        path = output / f"{kind}.json"
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            count = 0
            for entry in writer.entries(table):
                done += 1
                if entry is not None:
                    file.write(f"{',' if count else '['}\n{json.dumps(entry, ensure_ascii=False)}")
                    count += 1
                progress(done, total)
            file.write("\n]\n" if count else "[]\n")
        lists[path] = count
    return Exported(lists=lists, uncaptioned=writer.uncaptioned, shots=len(writer.shots))


def used_pairs(pairs: pa.Table) -> pa.Table:
    """Pairs without a reason not to use them."""
    return pairs.filter(pa.array([not reason for reason in pairs.column("reason").to_pylist()], pa.bool_()))


class _Writer:
    """Entries of lists; cuts a shot when its first pair comes."""

    def __init__(self, dataset: Dataset, output: Path, caption: str | None) -> None:
        self.uncaptioned = 0
        self.shots: set[str] = set()
        self._dataset, self._output, self._caption = dataset, output, caption
        self._clips = read_table(dataset.folder / CLIPS, ["key", "path", "start_s", "end_s", "caption"])
        self._crops = read_table(dataset.folder / FACES, ["crop"]).column("crop")

    def entries(self, pairs: pa.Table) -> Iterator[dict[str, Any] | None]:
        """An entry a pair; None for one without a caption."""
        for batch in pairs.to_batches(_AT_ONCE):
            clips = self._clips.take(batch.column("clip")).to_pylist()
            references = batch.column("references")
            crops = iter(self._crops.take(references.flatten()).to_pylist())
            for clip, count in zip(clips, references.value_lengths().to_pylist(), strict=True):
                pictures = [self._path(self._dataset.folder / next(crops)) for _ in range(count)]
                text = clip["caption"] or self._caption
                if text is None or not text.strip():
                    self.uncaptioned += 1
                    yield None
                else:
                    yield {"video_path": self._video(clip), "caption": text, "image_path": _joined(pictures)}

    def _video(self, clip: Mapping[str, Any]) -> str:
        if not clip["start_s"] and clip["end_s"] is None:
            return clip["path"]
        shot = self._output / "shots" / f"{clip['key']}.mp4"
        if clip["key"] not in self.shots:
            self.shots.add(clip["key"])
            if not shot.exists():
                cut(Path(clip["path"]), clip["start_s"], clip["end_s"], shot)
        return self._path(shot)

    def _path(self, path: Path) -> str:
        """Relative to the lists where list and file move together."""
        together = self._output.is_relative_to(self._dataset.folder) or path.is_relative_to(self._output)
        return os.path.relpath(path, self._output) if together else str(path)


def _joined(pictures: list[str]) -> str | list[str]:
    """As Concat-ID joins them; as a list where a path has the separator in it."""
    return pictures if any(SEPARATOR in picture for picture in pictures) else SEPARATOR.join(pictures)
