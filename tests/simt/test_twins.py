"""The comparison of the twins with a GPU (bench/gpu/twins.py), as far as it goes without one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bench.gpu import twins
from lstm_fused import _build
from tests.simt import building

pytestmark = pytest.mark.simt

ROUNDS = 8


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        building.cuda_headers()
    except building.CannotBuild as error:
        pytest.skip(str(error))
    return twins.build_for_machine(tmp_path_factory.mktemp("twins") / "probes", strict=True)


@pytest.fixture(scope="module")
def dump(program: Path) -> twins.Dump:
    return twins.dump(program, ROUNDS)


def changed(dump: twins.Dump, name: str, at: int, word: int) -> twins.Dump:
    """The same, but for word `at` of the fourth round of a probe."""
    answer = dump.answers[name, 3]
    words = (*answer.words[:at], word, *answer.words[at + 1 :])
    return dump._replace(answers={**dump.answers, (name, 3): answer._replace(words=words)})


def bits(x: float) -> int:
    return struct.unpack("I", struct.pack("f", x))[0]


def test_a_dump_is_like_itself(dump: twins.Dump) -> None:
    result = twins.compare(dump, dump)
    assert result["skipped"] == {}
    assert len(result["probes"]) == len({name for name, _ in dump.answers}) > 25
    assert all(row["words"] >= ROUNDS * 256 for row in result["probes"].values())
    assert result["probes"]["multiply_f16"]["worst"] == 0


def test_no_schedule_changes_an_answer(program: Path, dump: twins.Dump) -> None:
    for seed in range(1, 4):
        assert twins.dump(program, ROUNDS, seed) == dump


def test_a_flipped_bit_names_its_probe(dump: twins.Dump) -> None:
    for name in ("copy_some", "send_to_peers_16", "to_tf32"):
        word = dump.answers[name, 3].words[257 % len(dump.answers[name, 3].words)]
        wrong = changed(dump, name, 257 % len(dump.answers[name, 3].words), word ^ 1)
        with pytest.raises(RuntimeError, match=rf"differ in 1 of \d+ probes.*: {name} in 1 of"):
            twins.compare(wrong, dump)


def test_a_nan_may_be_any_nan_only_where_it_may(dump: twins.Dump) -> None:
    """Round 2 and 6 are of special numbers."""
    for name, allowed in [("to_tf32", True), ("multiply_tf32", True), ("narrow", False)]:
        answers = dict(dump.answers)
        for number in (2, 6):
            answer = answers[name, number]
            words = [w ^ 0x80000000 if twins.is_nan(w) else w for w in answer.words]
            assert words != list(answer.words)
            answers[name, number] = answer._replace(words=tuple(words))
        other = dump._replace(answers=answers)
        if allowed:
            twins.compare(other, dump)
        else:
            with pytest.raises(RuntimeError, match=name):
                twins.compare(other, dump)


def test_sums_of_products_are_near(dump: twins.Dump) -> None:
    """Off by half of what is allowed, by more, and by a NaN that the other side has not."""
    words = dump.answers["multiply_bf16", 3].words
    value, size = twins.floats(words[:1])[0], twins.floats(words[4:5])[0]
    assert 0 < size < 2**-110  # this round is of subnormal numbers
    near = changed(dump, "multiply_bf16", 0, bits(value + 2.0**-121))
    assert twins.compare(near, dump)["probes"]["multiply_bf16"]["flushed"] == 1
    for wrong in (value + 2.0**-119, float("nan"), float("inf")):
        with pytest.raises(RuntimeError, match="multiply_bf16"):
            twins.compare(changed(dump, "multiply_bf16", 0, bits(wrong)), dump)

    answer = dump.answers["multiply_f16", 0]
    value, size = twins.floats(answer.words[:1])[0], twins.floats(answer.words[4:5])[0]
    for part, right in [(0.5, True), (2.0, False)]:
        other = answer._replace(words=(bits(value + part * twins.BOUND * size), *answer.words[1:]))
        moved = dump._replace(answers={**dump.answers, ("multiply_f16", 0): other})
        if right:
            worst = twins.compare(moved, dump)["probes"]["multiply_f16"]["worst"]
            assert 0.4 < worst < 0.6
        else:
            with pytest.raises(RuntimeError, match="multiply_f16"):
                twins.compare(moved, dump)


def test_what_is_missing_is_said(dump: twins.Dump) -> None:
    fewer = {key: answer for key, answer in dump.answers.items() if key != ("publish", 3)}
    with pytest.raises(RuntimeError, match="did not answer round 3 of publish"):
        twins.compare(dump._replace(answers=fewer), dump)
    fewer = {key: answer for key, answer in dump.answers.items() if key[0] != "publish"}
    without = dump._replace(answers=fewer, skipped={"publish": "needs more"})
    assert twins.compare(without, dump)["skipped"] == {"publish": "needs more"}
    other = dump.answers["publish", 3]._replace(inputs="0")
    with pytest.raises(RuntimeError, match="round 3 of publish ran on other words"):
        twins.compare(dump._replace(answers={**dump.answers, ("publish", 3): other}), dump)


def test_lines_are_parsed() -> None:
    text = "# read_peers_16 this GPU has no clusters of 16\npublish 3 same 0f 1 ffffffff\n"
    dump = twins.parse(text)
    assert dump.skipped == {"read_peers_16": "this GPU has no clusters of 16"}
    assert dump.answers == {("publish", 3): twins.Answer("same", "0f", (1, 0xFFFFFFFF))}


@pytest.mark.parametrize("architecture", _build.DEFAULT_ARCHITECTURES)
def test_nvcc_compiles_and_links_the_probes(architecture: str, tmp_path: Path) -> None:
    toolkit, why_not = _build.find_toolkit()
    if toolkit is None:
        pytest.skip(str(why_not))
    program = twins.build_for_gpu(tmp_path / "probes", [architecture], strict=True)
    assert program.stat().st_size > 0
