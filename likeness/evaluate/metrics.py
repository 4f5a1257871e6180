"""Every metric by its name. A metric is built when it is asked for, from the weights that the user gave.

To add one: write a function ``Backends -> Metric`` in the module of its kind, which raises
:class:`~likeness.evaluate.types.BackendAbsent` (through :meth:`Backends.need`) where its weights were not given, and name
it here.
"""

from __future__ import annotations

from collections.abc import Callable

from likeness.evaluate.drift import drift
from likeness.evaluate.editability import clip_dist, clip_dist_face
from likeness.evaluate.identity import facesim_arc, facesim_arc_strict, facesim_cur, facesim_cur_strict
from likeness.evaluate.motion import motion
from likeness.evaluate.people import people
from likeness.evaluate.text import clip_score, clip_score_corrected
from likeness.evaluate.types import Backends, Metric

METRICS: dict[str, Callable[[Backends], Metric]] = {
    "facesim_arc": facesim_arc,
    "facesim_arc_strict": facesim_arc_strict,
    "facesim_cur": facesim_cur,
    "facesim_cur_strict": facesim_cur_strict,
    "drift": drift,
    "people": people,
    "clip_score": clip_score,
    "clip_score_corrected": clip_score_corrected,
    "clip_dist": clip_dist,
    "clip_dist_face": clip_dist_face,
    "motion": motion,
}
