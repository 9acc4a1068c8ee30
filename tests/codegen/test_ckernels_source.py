"""The C of kernels for microcontrollers: refusals, fixed point, strict compilers, sanitizers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import c_harness as harness
import micro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.codegen import ckernels
from edgeopt.codegen.machines import MACHINES
from edgeopt.core import affine
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "emulated"))
import shapes

I8 = {"dtype": "i8", "out_dtype": "i8"}


def odd_keys() -> list[OpKey]:
    """What exercises every routine of pairs: rests of channels and pixels, strides, both axes."""
    convs = [
        shapes.pointwise((5, 3), 7, 13), shapes.pointwise((1, 1), 33, 40),
        shapes.pointwise((4, 3), 8, 6), shapes.linear(101, 5),
        shapes.conv((9, 8), (3, 5), stride=(2, 2)), shapes.conv((6, 5), (4, 7), (5, 3)),
        shapes.conv((5, 9), (8, 2), (1, 1), stride=(2, 2)),
    ]  # fmt: skip
    for size in (1, 3, 5, 7):
        for stride in (1, 2, 3):
            convs.append(shapes.depthwise((9, 7), 6, (size, size), stride=(stride, stride)))
            convs.append(shapes.depthwise((4, 11), 9, (size, size), stride=(stride, stride)))
    convs.append(shapes.depthwise((6, 6), 5, (3, 5)))
    return harness.with_packed(harness.integer(key) for key in convs)


@pytest.mark.parametrize(
    ("key", "target", "message"),
    [
        (OpKey("pointwise", (4, 4, 8), (4, 4, 8)), harness.CORTEX_M4F,
         "armv7em .armv7em. has no kernel for pointwise of f32"),
        (OpKey("softmax", (8,), (8,), variant="log", **I8), harness.CORTEX_M0,
         "armv6m .armv6m. has no kernel for softmax"),
        (OpKey("fallback", (8,), (8,), variant="0123456789abcdef", **I8), harness.RISCV,
         "riscv32 .riscv32. has no kernel for fallback"),
    ],
    ids=lambda value: value.op if isinstance(value, OpKey) else "",
)  # fmt: skip
def test_an_operator_without_a_kernel_is_refused(
    key: OpKey, target: TargetSpec, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ckernels.emit(key, target)
    from edgeopt.codegen import schedules

    with pytest.raises(InputError, match=message):  # before anything is built
        schedules.select(key, target)


def test_everything_quantized_has_a_kernel_on_every_core() -> None:
    for keys in shapes.CLASSES.values():
        for key in keys:
            if key.op != "irb" and "log" not in key.variant:
                for target in (harness.CORTEX_M0, harness.CORTEX_M4F, harness.RISCV):
                    assert ckernels.find(harness.integer(key), target) is not None, str(key)


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-40, 2.0**15, width=32),
       st.integers(-128, 127))  # fmt: skip
def test_fixed_point_is_the_exact_product_rounded_half_up(
    total: int, multiplier: float, zero: int
) -> None:
    exact = Fraction(total) * Fraction(multiplier) + Fraction(1, 2)
    wanted = min(max(exact.numerator // exact.denominator + zero, -128), 127)
    found = affine.requantize_fixed(np.int32(total)[None], np.float32(multiplier), zero)
    assert int(found[0]) == wanted


def test_fixed_point_refuses_what_it_cannot_apply() -> None:
    total = np.array([1], np.int32)
    for wrong in (0.0, 2.0**16, float("nan")):
        with pytest.raises(ValueError, match="out of the range of fixed point"):
            affine.requantize_fixed(total, np.float32(wrong), 0)
    with pytest.raises(ValueError, match="out of the range of fixed point"):
        affine.fixed_factors(np.zeros(2, np.float32))


@given(st.floats(2.0**-12, 2.0**4, width=32), st.floats(2.0**-12, 2.0**4, width=32))
def test_fixed_sums_stay_near_float_sums(left: float, right: float) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, 500).astype(np.int8) for _ in range(2))
    factors = np.array([left, right], np.float32)
    fixed = affine.add_fixed(a, b, factors, 3, -5, 7).astype(int)
    assert np.abs(fixed - affine.add(a, b, factors, 3, -5, 7).astype(int)).max() <= 1


def test_sources_are_the_same_whatever_the_order() -> None:
    keys = odd_keys()
    text = ckernels.source(keys, harness.CORTEX_M4F, "a_")
    assert text == ckernels.source(keys[::-1], harness.CORTEX_M4F, "a_")
    assert "int32_t a_edgeopt_k_" in text
    assert "edgeopt_asm_7_2" in text
    assert "edgeopt_plain" not in text  # only what is called for


@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
def test_loops_in_assembly_at_every_level(
    level: str, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    emulated = micro.need_machine(MACHINES["m4"], needs_tool)
    micro.check(odd_keys(), emulated, tmp_path, flags=(level,))


def test_sanitizers_find_nothing(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    """Each kernel with inputs, constants, scratch and output in heap blocks of their exact size."""
    target, keys = harness.CORTEX_M4F, odd_keys()
    (tmp_path / "kernels.c").write_text(ckernels.source(keys, target))
    (tmp_path / "main.c").write_text(_exact_blocks(keys, target))
    program = tmp_path / "program"
    command = [
        needs_tool("gcc"), "-std=c99", "-O1", "-g", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", "-o", str(program), str(tmp_path / "kernels.c"),
        str(tmp_path / "main.c"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


def _exact_blocks(keys: list[OpKey], target: TargetSpec) -> str:
    lines = ["#include <stdint.h>", "#include <stdlib.h>", "#include <string.h>"]
    body = []
    for index, key in enumerate(keys):
        template = ckernels.select(key, target)
        function = template.function(key, target)
        inputs, constants = harness.case(key, index)
        packed = template.pack(key, target, constants)
        wanted = harness.expected(key, (inputs, constants), target)
        rest = iter(inputs)
        passed = []
        types = ", ".join(["void *"] * len(function.args))
        lines.append(f"extern int32_t {function.symbol}({types});")
        body.append("    {")
        for number, arg in enumerate(function.args):
            size = function.scratch_bytes
            if arg.kind in ("input", "const"):
                value = next(rest) if arg.kind == "input" else packed[arg.name]
                data = np.ascontiguousarray(value).tobytes()
                size = len(data)
                text = ",".join(map(str, data))
                lines.append(f"static const unsigned char d{index}_{number}[] = {{{text}}};")
            elif arg.kind == "output":
                size = wanted.nbytes
            body.append(f"        void *p{number} = malloc({size});")
            if arg.kind in ("input", "const"):
                body.append(f"        memcpy(p{number}, d{index}_{number}, {size});")
            passed.append(f"p{number}")
        text = ",".join(map(str, np.ascontiguousarray(wanted).tobytes()))
        lines.append(f"static const unsigned char w{index}[] = {{{text}}};")
        output = next(i for i, arg in enumerate(function.args) if arg.kind == "output")
        body.append(f"        if ({function.symbol}({', '.join(passed)}) != 0) return 1;")
        body.append(f"        if (memcmp(p{output}, w{index}, sizeof w{index}) != 0) return 2;")
        body += [f"        free({name});" for name in passed]
        body.append("    }")
    return "\n".join([*lines, "int main(void) {", *body, "    return 0;", "}", ""])


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_clang_compiles_it_without_a_warning(
    level: str, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    (tmp_path / "kernels.c").write_text(ckernels.source(odd_keys(), harness.CORTEX_M4F))
    cross = ("--target=thumbv7em-none-eabihf", "-mcpu=cortex-m4", "-mfloat-abi=hard",
             "-ffreestanding", "-isystem", "/usr/lib/arm-none-eabi/include")  # fmt: skip
    needs_tool("arm-none-eabi-gcc")  # brings the headers
    for flags in ((), cross):
        command = [needs_tool("clang"), *harness.WARNINGS, level, *flags, "-c", "-o",
                   str(tmp_path / "kernels.o"), str(tmp_path / "kernels.c")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:2000]
