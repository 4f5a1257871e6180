"""Noise processes and their samplers: numbers only, no models."""

from likeness.diffusion.base import Generators, NoiseProcess, Sampler
from likeness.diffusion.flow import EulerSampler, RectifiedFlow
from likeness.diffusion.shifted import DynamicShiftFlow
from likeness.diffusion.vprediction import DpmSolverSampler, VPrediction

__all__ = [
    "DpmSolverSampler",
    "DynamicShiftFlow",
    "EulerSampler",
    "Generators",
    "NoiseProcess",
    "RectifiedFlow",
    "Sampler",
    "VPrediction",
]
