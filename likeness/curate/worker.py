"""What runs in a worker process, whoever started it: build the models once, then measure clip after clip.

An exception that is the clip's becomes a :class:`Failure` and a row of the record. One that would befall every clip (a full
disk, a damaged model) becomes a :class:`Fatal` and ends the run.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from likeness.curate.types import ClipError, ClipSource, Measured
from likeness.errors import UserError

Worker = Callable[[ClipSource], Measured]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DETAIL_LENGTH = 300


class MakeWorker(Protocol):
    """Makes a worker in the process that it was sent to.

    ``imports``, if it has them, names modules that are costly to import: a fork server does so once.
    """

    def __call__(self) -> Worker:
        """Load the models."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker that looks at videos is made from, small enough to be sent.

    Attributes:
        config: ``CurationConfig.to_dict()``.
        faces: folder of the face models.
        dataset: folder in which crops are written.
    """

    config: dict[str, Any]
    faces: str
    dataset: str

    # The command line because multiprocessing imports the program's main module in each process.
    imports: ClassVar[tuple[str, ...]] = (
        "likeness.cli", "likeness.curate.measure", "insightface.model_zoo", "onnx", "onnxruntime",
        "transformers.models.segformer.modeling_segformer",
    )  # fmt: skip

    def __call__(self) -> Worker:
        """Load the models and return the function that measures a clip."""
        import cv2

        from likeness.curate.config import CurationConfig
        from likeness.curate.measure import Measurer

        cv2.setNumThreads(1)  # workers share the cores; OpenCV's own threads do not go by OMP_NUM_THREADS
        return Measurer(CurationConfig.from_dict(self.config), self.faces, self.dataset)


@dataclass(frozen=True)
class Failure:
    """A clip that raised: the short name of the reason, and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Fatal:
    """An error that is no clip's own; the run ends with it."""

    error: Exception


Reply = Measured | Failure | Fatal


def build(make: MakeWorker) -> Worker | Fatal:
    """A worker, or why there can be none."""
    try:
        return make()
    except Exception as error:
        return _fatal(error)


def attempt(worker: Worker, source: ClipSource) -> Reply:
    """Measure a clip; whatever it raises is told, not raised."""
    try:
        return worker(source)
    except ClipError as error:
        return Failure(error.reason, str(error))
    except Exception as error:
        if _is_full_disk(error):
            return _fatal(error)
        text = " ".join(str(error).split())
        return Failure(f"unexpected {type(error).__name__}", text[:_DETAIL_LENGTH])


def _fatal(error: Exception) -> Fatal:
    """Errors of libraries may not survive the way between processes; their text does."""
    known = isinstance(error, UserError | OSError)
    return Fatal(error if known else RuntimeError("".join(traceback.format_exception(error))))


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
