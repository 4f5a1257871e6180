"""Noise processes and their samplers: numbers only, no models."""

from likeness.diffusion.base import Generators, NoiseProcess, Sampler
from likeness.diffusion.flow import EulerSampler, RectifiedFlow

__all__ = ["EulerSampler", "Generators", "NoiseProcess", "RectifiedFlow", "Sampler"]
