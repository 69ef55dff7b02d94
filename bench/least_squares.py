"""Least squares of numbers that may not be negative."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nonnegative(matrix: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """The x >= 0 for which matrix @ x is nearest to the target.

    By active sets (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23): free the
    number that helps most, solve for the free ones, and hold those at 0 that would fall below.
    """
    q, matrix = np.linalg.qr(matrix)  # a triangle has the same answer, and few rows
    target = q.T @ target
    x = np.zeros(matrix.shape[1])
    free = np.zeros(len(x), dtype=bool)
    enough = 1e-12 * float(np.linalg.norm(matrix.T @ target))
    for _ in range(3 * len(x)):  # where rounding frees a number again and again
        gain = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if free.all() or gain.max() <= enough:
            break
        free[gain.argmax()] = True
        while True:
            wanted = np.zeros(len(x))
            wanted[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
            below = free & (wanted <= 0)
            if not below.any():
                break
            steps = np.full(len(x), np.inf)
            steps[below] = x[below] / np.maximum(x[below] - wanted[below], 1e-300)
            x = x + steps.min() * (wanted - x)
            free[steps.argmin()] = False
            x[~free] = 0
        x = wanted
    return x
