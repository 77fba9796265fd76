"""What the user believes before the first trial: that good values lie around the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hpo_lib.samplers.encoding import Array, Codes, Point
from hpo_lib.space.search_space import SearchSpace

_REST = 0.05
"""The share of belief that is left to every value, so that a wrong prior rules nothing out."""


class Prior:
    """A bell around each default, and the rest of belief spread evenly.

    Args:
        codes: of the space.
        space: with the defaults.
        widths: standard deviations by parameter, in shares of the range; the options of a choice
            are at distance one. A parameter without a width is believed to be anything.
    """

    def __init__(self, codes: Codes, space: SearchSpace, widths: Mapping[str, float]) -> None:
        self._codes = codes
        self._widths = np.array([widths.get(axis.name, np.inf) for axis in codes.axes])
        defaults = {one.name: one.default for one in space.searched}
        self._centre = np.array([[axis.code(defaults[axis.name]) for axis in codes.axes]])

    def log_density(self, points: Array) -> Array:
        """Logarithm of the density at points of shape (n, d), 0 at the defaults."""
        away = self._codes.scale(points) - self._codes.scale(self._centre)
        away = np.where(self._codes.choice, away != 0, away)
        bell = np.exp(-0.5 * (away / self._widths) ** 2)
        return np.log(_REST + (1 - _REST) * bell).sum(axis=1)

    def steer(
        self, acquisition: Callable[[Array], Array], weight: float
    ) -> Callable[[Array], Array]:
        """The logarithm of an acquisition function with the belief (Hvarfner et al., 2022)."""
        return lambda points: acquisition(points) + weight * self.log_density(points)

    def draw(self, rng: np.random.Generator) -> Point:
        """A point drawn from it."""
        choice, shape = self._codes.choice, self._widths.shape
        centre = self._codes.units(self._centre)[0]
        near = centre + np.where(choice, 0, np.minimum(self._widths, 1)) * rng.normal(size=shape)
        free = np.where(choice, np.exp(-0.5 / self._widths**2), np.isinf(self._widths))
        evenly = rng.random(shape) < np.maximum(free, _REST)
        units = np.where(evenly, rng.random(shape), np.clip(near, 0, 1))
        return tuple(self._codes.draw(units[None])[0].tolist())
