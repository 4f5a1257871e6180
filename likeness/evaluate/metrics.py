"""Every metric by its name. A metric is built when it is asked for, from the weights that the user gave.

To add one: write a function ``Backends -> Metric`` in the module of its kind, which raises
:class:`~likeness.evaluate.types.BackendAbsent` (through :meth:`Backends.need`) where its weights were not given, and name
it here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from likeness.errors import UserError
from likeness.evaluate import copying, drift, editability, identity, motion, people, quality, text
from likeness.evaluate.types import BackendAbsent, Backends, Metric

METRICS: dict[str, Callable[[Backends], Metric]] = {
    "facesim_arc": identity.facesim_arc,
    "facesim_arc_strict": identity.facesim_arc_strict,
    "facesim_cur": identity.facesim_cur,
    "facesim_cur_strict": identity.facesim_cur_strict,
    "people": people.people,
    "drift": drift.drift,
    "clip_score": text.clip_score,
    "clip_score_corrected": text.clip_score_corrected,
    "clip_dist": editability.clip_dist,
    "clip_dist_face": editability.clip_dist_face,
    "viclip": quality.viclip,
    "aesthetic_quality": quality.aesthetic_quality,
    "imaging_quality": quality.imaging_quality,
    "motion_smoothness": quality.motion_smoothness,
    "dynamic_degree": quality.dynamic_degree,
    "copying": copying.copying,
    "motion": motion.motion,
}


def build(backends: Backends, names: Sequence[str] | None = None) -> tuple[list[Metric], dict[str, str]]:
    """Metrics with their weights, and those whose weights were not given: name -> the option that gives them.

    Args:
        backends: the weights.
        names: what is asked for; None: everything there are weights for.

    Raises:
        UserError: a name that is no metric's, one asked for by name without its weights, or weights that do not fit.
    """
    if unknown := [name for name in names or () if name not in METRICS]:
        raise UserError(f"There is no metric {unknown[0]}. Known are: {', '.join(METRICS)}.")
    metrics, absent = [], {}
    for name in METRICS if names is None else dict.fromkeys(names):
        try:
            metrics.append(METRICS[name](backends))
        except BackendAbsent as error:
            if names is not None:
                raise UserError(f"{name}: {error}.") from None
            absent[name] = error.option
    return metrics, absent
