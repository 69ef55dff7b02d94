"""limits.toml: its form, and what is said of kernels that were never compiled."""

from __future__ import annotations

import pytest

from bench import sass
from tests.cubin import gate

GENERAL = """
[[everywhere]]
stack = 0
reason = "general"
[[everywhere]]
local = 0
reason = "general"
[[everywhere]]
shared = 0
reason = "general"
[[everywhere]]
registers = 32
reason = "general"
"""


def kernel(symbol: str = "step", arch: str = "sm_90a", **usage: int) -> sass.Kernel:
    numbers = {"registers": 10, "stack": 0, "local": 0, "shared": 0} | usage
    code = ("LDG.E R4, [R2]", "LDG.E.128 R4, [R2]", "REDUX.SUM UR4, R0", "EXIT")
    return sass.Kernel(arch, symbol, sass.Usage(**numbers), sass.Code(code, ""))


def said(limits: str, *kernels: sass.Kernel, name: str = "^step$") -> list[str]:
    entry = f"[[kernel]]\nname = '{name}'\nlimits = [{limits}]"
    return gate.violations(kernels or (kernel(),), gate.parse(GENERAL + entry))


def test_the_file_can_be_read() -> None:
    limits = gate.parse(gate.LIMITS.read_text())
    assert limits.everywhere and limits.entries


@pytest.mark.parametrize(
    "limit",
    [
        "registers = 80",
        "registers = 80, reason = ' '",
        "forbid = 'LDL'",
    ],
)
def test_a_limit_needs_a_reason(limit: str) -> None:
    with pytest.raises(ValueError, match=r"limits\.toml: a limit needs a reason, got \{"):
        said(f"{{ {limit} }}")


@pytest.mark.parametrize(
    "limit",
    [
        "",
        "registers = 80, stack = 0, ",
        "require = 'LDG', ",
        "forbid = 'LDG', least = 1, ",
        "register = 80, ",
    ],
)
def test_a_limit_is_one_thing(limit: str) -> None:
    with pytest.raises(ValueError, match=r"limits\.toml: a limit is one of"):
        said(f"{{ {limit} reason = 'ours' }}")


@pytest.mark.parametrize("text", ["[[kernels]]", "[[kernel]]\nname = 'step'\nlimit = []"])
def test_unknown_words_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"limits\.toml: .*, got .*(kernels|limit)"):
        gate.parse(text)


def test_resources_are_limited() -> None:
    assert said("") == []
    assert said("", kernel(registers=33)) == ["step on sm_90a: 33 registers, at most 32: general"]
    assert said("", kernel(local=4)) == [
        "step on sm_90a: 4 bytes of local memory, at most 0: general"
    ]


def test_an_entry_replaces_a_general_limit() -> None:
    wider = "{ registers = 40, reason = 'ours' }"
    two = (kernel(registers=40), kernel("other"))
    limits = gate.parse(
        GENERAL
        + f"[[kernel]]\nname = 'step'\nlimits = [{wider}]\n[[kernel]]\nname = ''\nlimits = []"
    )
    assert gate.violations(two, limits) == []
    assert gate.violations((kernel(registers=41), two[1]), limits) == [
        "step on sm_90a: 41 registers, at most 40: ours"
    ]


def test_instructions_are_counted_by_whole_words() -> None:
    assert said("{ require = 'LDG', least = 2, reason = 'ours' }") == []
    assert said("{ require = 'LDG', least = 3, reason = 'ours' }") == [
        "step on sm_90a: 2 of LDG, at least 3: ours"
    ]
    assert said("{ forbid = 'RED|ATOM', reason = 'ours' }") == []
    assert said("{ forbid = 'RED[A-Z]*', reason = 'ours' }") == [
        "step on sm_90a: 1 of RED[A-Z]*, at most 0 (the first: REDUX.SUM UR4, R0): ours"
    ]


def test_limits_may_be_of_some_architectures_and_names() -> None:
    both = kernel(arch="sm_80"), kernel(arch="sm_100")
    newer = "{ from = 90, require = 'UTMA', least = 1, reason = 'ours' }"
    assert said(newer, *both) == ["step on sm_100: 0 of UTMA, at least 1: ours"]
    older = "{ below = 90, require = 'UTMA', least = 1, reason = 'ours' }"
    assert said(older, *both) == ["step on sm_80: 0 of UTMA, at least 1: ours"]
    named = "{ kernels = 'two', require = 'UTMA', least = 1, reason = 'ours' }"
    assert said(named, kernel("one"), kernel("two"), name="one|two") == [
        "two on sm_90a: 0 of UTMA, at least 1: ours"
    ]


def test_a_kernel_without_an_entry_is_an_error() -> None:
    assert said("", kernel(), kernel("other")) == [
        "other on sm_90a: limits.toml has no entry that matches it"
    ]


def test_a_kernel_without_a_limit_is_an_error() -> None:
    text = GENERAL.replace("registers = 32", "forbid = 'LDL'")
    limits = gate.parse(text + "[[kernel]]\nname = 'step'\nlimits = []")
    assert gate.violations([kernel()], limits) == [
        "step on sm_90a: limits.toml does not limit registers"
    ]


def test_what_holds_for_nothing_is_an_error() -> None:
    assert "limits.toml: '^gone$' is the first match of no kernel" in said("", name="^gone$")
    assert said("{ kernels = 'gone', forbid = 'LDL', reason = 'ours' }") == [
        "limits.toml: '^step$': the limit on LDL holds for no kernel"
    ]
    limits = gate.parse(
        GENERAL + "[[kernel]]\nname = 'st'\nlimits = []\n[[kernel]]\nname = 'step'\nlimits = []"
    )
    assert gate.violations([kernel()], limits) == [
        "limits.toml: 'step' is the first match of no kernel"
    ]


def test_table_counts_and_names_the_largest() -> None:
    some = [kernel("a", "sm_100"), kernel("b", "sm_90a", registers=99), kernel("c", "sm_90a")]
    assert gate.table(some) == [
        "sm_90a     2 kernels, at most  99 registers: b",
        "sm_100     1 kernels, at most  10 registers: a",
    ]
