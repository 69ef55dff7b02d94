"""explain(): one line for every variant, and which one runs."""

from __future__ import annotations

import pytest
import torch

import lstm_fused
from lstm_fused import dispatch
from lstm_fused.dispatch import variant, variants
from lstm_fused.explained import ABOUT, explain


def test_explain_names_every_variant_once_and_chooses_one() -> None:
    for module in (lstm_fused.LSTM(3, 4), torch.nn.LSTM(3, 4), lstm_fused.LSTMCell(3, 4)):
        header, *lines = explain(module).splitlines()
        assert "H=4" in header and "float32 on cpu" in header
        names = [line.split()[0] for line in lines]
        assert names == dispatch.names()
        assert sum(line.split(maxsplit=1)[1] == "chosen" for line in lines) == 1
        for line, row in zip(lines, variants(), strict=True):
            if row.device == "cpu" and row.why_not:
                assert row.why_not in line


def test_explain_describes_the_case() -> None:
    module = lstm_fused.LSTM(3, 6, proj_size=2, bidirectional=True, dtype=torch.bfloat16)
    assert explain(module).splitlines()[0] == "LSTM H=6 P=2 bidirectional bfloat16 on cpu"
    case = lstm_fused.Case(hidden_size=8, dtype=torch.float64)
    assert explain(case).splitlines()[0] == "LSTM H=8 float64 on cpu"


def test_explain_under_force() -> None:
    with variant("torch.composite"):
        lines = explain(lstm_fused.LSTM(3, 4)).splitlines()
    assert lines[-1].split() == ["torch.composite", "forced"]
    assert all("chosen" not in line for line in lines)
    assert any(line.endswith("torch.composite is forced") for line in lines)


@pytest.mark.parametrize("thing", [torch.nn.Linear(3, 4), torch.nn.GRU, 3])
def test_explain_refuses_what_is_no_lstm(thing: object) -> None:
    with pytest.raises(TypeError, match="explain takes an LSTM or LSTMCell module"):
        explain(thing)


def test_explain_of_an_unfit_dtype_chooses_the_composite() -> None:
    text = explain(lstm_fused.Case(hidden_size=8, dtype=torch.complex64))
    assert "torch.composite  chosen" in text
    assert "not in torch.complex64" in text


def test_every_variant_of_ours_is_told_of() -> None:
    assert list(ABOUT) == [name for name in dispatch.names() if not dispatch.was_added(name)]
