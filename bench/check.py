"""Is an arm right? Asked before it is timed, by the one tolerance rule of the repository."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tests.close import error_ratio


@dataclass(frozen=True)
class Correctness:
    """How an arm's results compare with the float64 reference.

    ratio     largest error over what the rule allows; at most 1 is right
    worst     name of the tensor with that ratio
    relative  per tensor, |ours - ref| / |ref| in the L2 norm
    """

    ratio: float
    worst: str
    relative: dict[str, float]

    @property
    def right(self) -> bool:
        return self.ratio <= 1.0


def judge(
    results: dict[str, Tensor],
    yard: dict[str, Tensor],
    ref: dict[str, Tensor],
    eps: float | None = None,
) -> Correctness:
    """Compare every tensor of an arm; all three hold the same names, eps is the rule's."""
    if not results.keys() == yard.keys() == ref.keys():
        raise ValueError(
            f"results must be named {sorted(ref)} (reference) = {sorted(yard)} (yardstick), "
            f"got {sorted(results)}"
        )
    ratios = {name: error_ratio(results[name], yard[name], ref[name], eps) for name in ref}
    worst = max(ratios, key=lambda name: ratios[name])
    relative = {
        name: ((results[name].double() - ref[name]).norm() / ref[name].norm()).item()
        for name in ref
    }
    return Correctness(ratios[worst], worst, relative)
