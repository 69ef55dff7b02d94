"""Compare with torch.nn by running it, not by quoting it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

from tests.close import assert_no_worse


class Outcome(NamedTuple):
    """What a call did: the error's type and words, and the warnings."""

    error: type[BaseException] | None
    words: str
    warned: tuple[str, ...]


def outcome(call: Callable[[], Any]) -> Outcome:
    """Run the call and keep what it complained about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
            error, words = None, ""
        except Exception as problem:  # noqa: BLE001 - whatever torch raises is the answer
            error, words = type(problem), str(problem)
    return Outcome(error, words, tuple(str(w.message) for w in caught))


def assert_same(ours: Any, theirs: Any, name: str = "result") -> None:
    """Equal structure, shapes, strides and dtypes, and float64 numbers by the one rule."""
    if theirs is None or isinstance(theirs, torch.Tensor) and not theirs.is_floating_point():
        assert (ours is None) == (theirs is None), name
        assert theirs is None or torch.equal(ours, theirs), name
    elif isinstance(theirs, torch.Tensor):
        got, wanted = (
            # An empty tensor's strides mean nothing, and torch's own differ from op to op.
            (t.shape, t.stride() if t.numel() else None, t.dtype, t.device)
            for t in (ours, theirs)
        )
        assert got == wanted, f"{name}: {got} where torch has {wanted}"
        assert ours.requires_grad == theirs.requires_grad, name
        assert_no_worse(name, ours, theirs, theirs)
    else:
        assert type(ours) is type(theirs), name
        fields = theirs._fields if isinstance(theirs, PackedSequence) else range(len(theirs))
        for field, a, b in zip(fields, ours, theirs, strict=True):
            assert_same(a, b, f"{name}.{field}")
