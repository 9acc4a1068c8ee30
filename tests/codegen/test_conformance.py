"""The conformance suite leaves nothing out; what it says of machines is so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeopt.codegen import build, schedules
from edgeopt.codegen.ckernels.template import CTemplate
from edgeopt.codegen.schedules.isa import isa_of
from edgeopt.codegen.schedules.template import BaseTemplate
from edgeopt.core.kernels import KERNEL_OPS
from edgeopt.devices.local import probe
from tests.emulated import machines, shapes

KEYS = [key for keys in shapes.CLASSES.values() for key in keys]
AVX2 = machines.BY_NAME["avx2"].target


def templates(base: type[BaseTemplate] = BaseTemplate) -> Iterator[str]:
    """Those in TVM's IR; templates in C have `test_ckernels_cores`."""
    for kind in base.__subclasses__():
        if issubclass(kind, CTemplate):
            continue
        if kind.__module__.startswith("edgeopt."):
            yield kind.name
        yield from templates(kind)


def test_every_operator_is_in_the_suite() -> None:
    missing = KERNEL_OPS - {"fallback"} - {key.op for key in KEYS}
    assert not missing, f"add keys of {sorted(missing)} to tests/emulated/shapes.py"


def test_every_template_is_in_the_suite() -> None:
    found = {
        template.name
        for machine in machines.MACHINES
        for key in shapes.whole(machine.target)
        if (template := schedules.select(key, machine.target))
    }
    missing = set(templates()) - found
    assert not missing, f"add keys of template {sorted(missing)} to tests/emulated/shapes.py"


@pytest.mark.parametrize("machine", machines.MACHINES, ids=str)
def test_every_template_is_in_every_sample(machine: machines.Machine) -> None:
    found = {}
    for key in shapes.whole(machine.target):
        template = schedules.select(key, machine.target)
        assert template is not None, f"no template for {key}"
        found.setdefault(template.name, set()).add(key.precision)
    sampled = {
        schedules.select(key, machine.target).name  # type: ignore[union-attr]
        for turn in range(2)
        for key in shapes.sample(machine.target, turn)
    }
    assert sampled == set(found)
    assert found["gemm"] == found["depthwise"] == {"f32", "i8"}


@pytest.mark.parametrize("machine", [m for m in machines.MACHINES if m.shows], ids=str)
def test_machines_use_their_instructions(machine: machines.Machine) -> None:
    key = shapes.as_int8(shapes.pointwise((4, 4), 64, 64))
    texts = [text for text, _ in build.assembly([key], machine.target)]
    assert any(machine.shows in text for text in texts)


FLAGS = {
    "avx512": "fma bmi1 movbe avx512f avx512bw avx512cd avx512dq avx512vl",
    "avx512vnni": "fma bmi1 movbe avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni",
    "avxvnni": "fma bmi1 movbe avx_vnni",
    "avx2": "fma bmi1 movbe",
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_probed_processor_gets_a_target_of_the_suite(name: str, tmp_path: Path) -> None:
    """What is proven of a machine here is proven of the processors that have its flags."""
    flags = f"cx16 popcnt sse4_1 sse4_2 ssse3 avx avx2 f16c bmi2 {FLAGS[name]}"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"flags : {flags}\n\n")
    probed, known = probe(tmp_path, "x86_64").target, machines.BY_NAME[name].target
    assert (probed.mcpu, probed.features) == (known.mcpu, known.features)
    assert (probed.vector_bits, probed.vector_registers) == (
        known.vector_bits, known.vector_registers,
    )  # fmt: skip


def test_eight_lanes_need_integers_as_wide() -> None:
    isa = isa_of(machines.BY_NAME["avx1"].target)
    assert isa is not None and isa.lanes == 4 and isa.dot == "pair16"


def test_the_suite_finds_a_kernel_that_reads_too_far(
    tmp_path: Path, host_is_x86_64_v3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants one vector short of what the kernel reads: the guard page is hit."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt-get install -y gcc")
    key = shapes.pointwise((4, 4), 64, 64)
    template = schedules.select(key, AVX2)
    pack, size = type(template).pack, type(template).packed_bytes
    short = {"weights": slice(None, -16), "bias": slice(None)}

    def shortened(self, key, target, constants):  # type: ignore[no-untyped-def]
        packed = pack(self, key, target, constants)
        return {name: value[short[name]] for name, value in packed.items()}

    monkeypatch.setattr(type(template), "pack", shortened)
    monkeypatch.setattr(type(template), "packed_bytes", lambda *a: size(*a) - 64)
    with pytest.raises(AssertionError, match=r"faults const weights byte 16320, .* end of its"):
        machines.run(machines.BY_NAME["avx2"], [key], tmp_path, lambda name: name)
