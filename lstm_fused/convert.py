"""Swap the LSTMs of a whole model for ours, and back.

A replacement is a new object around the very same Parameters, hooks and submodules, so optimizers,
hook handles and checkpoints stay valid.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from lstm_fused import compat
from lstm_fused.nn import LSTM, LSTMCell

_log = logging.getLogger("lstm_fused")

# Columns: torch's class, ours, ours that subclasses torch's. Their instances hold equal state.
_TORCH, _OURS, _SUBCLASS = range(3)
_FAMILIES: tuple[tuple[type[nn.Module], ...], ...] = (
    (nn.LSTM, LSTM, compat.LSTM),
    (nn.LSTMCell, LSTMCell, compat.LSTMCell),
)

# A RemovableHandle removes its hook from the dict it came from: hooks are shared, these are not.
_OWN = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_flat_weights",
    "_flat_weights_names",
    "_flat_weight_refs",
    "_all_weights",
)

M = TypeVar("M", bound=nn.Module)


def convert(model: M, subclass: bool = False) -> M:
    """Replace every nn.LSTM and nn.LSTMCell in model by ours; returns model.

    A model that is itself an nn.LSTM or nn.LSTMCell is left alone, and its replacement returned.
    Parameters stay the very same objects. With subclass=True the replacements are
    `lstm_fused.compat`'s, for code that asks isinstance(m, nn.LSTM). Modules of a class derived
    from nn.LSTM keep their own forward, and so are not replaced. The logger "lstm_fused" tells at
    level INFO what was replaced, and what was not and why; at level WARNING where the model has
    LSTMs and none was replaced.
    """
    return _swap(model, _SUBCLASS if subclass else _OURS)


def restore(model: M) -> M:
    """Undo convert: replace every LSTM and LSTMCell of ours by torch's; returns as convert does."""
    return _swap(model, _TORCH)


def _swap(model: M, column: int) -> M:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    swapped: dict[nn.Module, nn.Module] = {}  # A module used twice is replaced by one object.
    names, left = [], []
    for name, module in model.named_modules():
        source, target = _classes(module, column)
        if source is target:
            continue
        title = f"{name or '(the model itself)'} ({type(module).__name__})"
        reason = _why_not(module, source)
        if reason is None:
            swapped[module] = _reclassed(module, source, target)
            names.append(title)
        else:
            left.append(f"{title}: {reason}")
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in swapped:
                parent._modules[key] = swapped[child]
    package = ("torch.nn", "lstm_fused", "lstm_fused.compat")[column]
    _log.info("%d replaced by %s: %s", len(names), package, ", ".join(names) or "nothing found")
    if left:  # worth a warning where it is all that the model has
        _log.log(logging.INFO if names else logging.WARNING, "left as is: %s", "; ".join(left))
    return swapped.get(model, model)  # type: ignore[return-value]


def _classes(module: nn.Module, column: int) -> tuple[type[nn.Module], type[nn.Module]]:
    """The class of our tables that module derives from, and the one it should; equal: nothing."""
    for family in _FAMILIES:
        # The most derived first: compat.LSTM is an nn.LSTM.
        for cls in reversed(family):
            if isinstance(module, cls):
                return cls, family[column]
    return nn.Module, nn.Module


def _why_not(module: nn.Module, source: type[nn.Module]) -> str | None:
    """Why module, of class source or derived from it, cannot be replaced."""
    if type(module) is not source and not _is_parametrized(module, source):
        return f"it is of a class derived from {source.__name__}, with a behaviour of its own"
    if "forward" in vars(module):
        return "its forward was replaced by a function of its own"
    if vars(module).get("_compiled_call_impl") is not None:
        return "its call is compiled; convert before .compile()"
    return None


def _is_parametrized(module: nn.Module, source: type[nn.Module]) -> bool:
    """Whether torch.nn.utils.parametrize, and nothing else, derived module's class from source."""
    return parametrize.is_parametrized(module) and type(module).__bases__ == (source,)


def _reclassed(module: nn.Module, source: type[nn.Module], target: type[nn.Module]) -> nn.Module:
    """A module of class target with the state of module, of class source."""
    cls = target
    if type(module) is not source:
        # The class that holds the parametrized weights as properties, on top of target.
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{target.__name__}", (target,), own)
    new = cls.__new__(cls)
    state: dict[str, Any] = dict(vars(module))
    for key in _OWN:
        if key in state:
            state[key] = state[key].copy()
    new.__dict__.update(state)
    hooks: Iterable[Any] = new._load_state_dict_pre_hooks.values()
    for hook in hooks:
        if getattr(hook, "with_module", False):  # Wrapped with a weak reference to its module.
            hook.module = weakref.ref(new)
    return new
