"""A network as firmware: built with the board's toolchain, run on an emulated machine, weighed.

The sources are those that the bundle ships, compiled with the flags its build files name. What is
found: outputs for every test vector, the self-test's verdict, instructions of init, of one
inference and of each kernel (exact counts, no times), stack, flash and variables.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt.codegen import machines, names, stack, toolchain
from edgeopt.codegen.carrays import c_type, dtype_of
from edgeopt.codegen.emit import render_template, runtime_file
from edgeopt.codegen.machines import Machine
from edgeopt.codegen.machines.image import SECTION_FLAGS
from edgeopt.codegen.testvectors import TestVectors, unpack
from edgeopt.codegen.toolchain import STRICT_FLAGS, Compiler
from edgeopt.codegen.verify import Comparison
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import ToolError
from edgeopt.core.network import Array, Tensor

#: How a bundle's C is compiled for firmware: gcc's first scheduling pass spills in these kernels.
FLAGS = ("-O2", "-fno-schedule-insns", *SECTION_FLAGS)
#: The oldest gcc that knows every core, and writes the notes that `codegen.stack` reads.
OLDEST_GCC = 10
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class FirmwareRun:
    """What a network did as firmware.

    Attributes:
        outputs: name -> [count, *shape], for the vectors.
        self_test: of the embedded vectors.
        init_instructions: of one call of init.
        run_instructions: of one inference.
        kernel_instructions: of each kernel, in order of execution.
        stack_bytes: that a run takes at most.
        stack_path: the functions this happens in.
        stack_seen_bytes: that a run took, by what it overwrote.
        flash_bytes: of code and constants in a linked image, start-up and C library as in an
            empty one left out.
        static_bytes: of variables, the context among them; arena, inputs and outputs not.
    """

    outputs: Mapping[str, Array]
    self_test: Comparison
    init_instructions: int
    run_instructions: int
    kernel_instructions: tuple[int, ...]
    stack_bytes: int
    stack_path: tuple[str, ...]
    stack_seen_bytes: int
    flash_bytes: int
    static_bytes: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """An input or output, as the templates of firmware see it."""

    index: int
    id: str
    c_type: str
    elements: int


@dataclass(frozen=True, slots=True)
class FirmwareNet:
    """What programs of firmware need to know of a network.

    Attributes:
        name: as given.
        kernels: how many it runs.
        embedded: test vectors in its self-test.
    """

    name: str
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    kernels: int
    embedded: int

    @classmethod
    def of(cls, name: str, vectors: TestVectors, kernels: int, embedded: int) -> FirmwareNet:
        """From the test vectors, which have every input and output in order."""
        sides = [
            tuple(
                TensorView(i, names.identifier(n), c_type(dtype_of(a)), a[0].size)
                for i, (n, a) in enumerate(side.items())
            )
            for side in (vectors.inputs, vectors.outputs)
        ]
        return cls(name, sides[0], sides[1], kernels, embedded)

    @property
    def id(self) -> str:
        """Prefix of the network's symbols."""
        return names.identifier(self.name)

    @property
    def macro(self) -> str:
        """Prefix of its macros."""
        return names.macro(self.name)

    @property
    def title(self) -> str:
        """Its name in comments."""
        return names.comment(self.name, 80)

    @property
    def string(self) -> str:
        """Its name as a C literal."""
        return names.string(names.comment(self.name, 80).replace('"', "'"))


def of_bundle(
    name: str, files: Mapping[str, bytes], vectors: TestVectors, kernels: int
) -> FirmwareNet:
    """The network of a bundle, from its files."""
    text = files.get(f"src/{names.identifier(name)}_self_test.c", b"").decode()
    found = re.search(r"^#define VECTORS (\d+)$", text, re.MULTILINE)
    return FirmwareNet.of(name, vectors, kernels, int(found[1]) if found else 0)


def compiler_for(profile: DeviceProfile) -> Compiler:
    """The toolchain of a board.

    Raises:
        ToolError: missing, or older than `OLDEST_GCC`.
    """
    compiler = toolchain.find(profile)
    found = toolchain.run((*compiler.argv, "-dumpversion"), compiler=compiler).strip()
    major = re.match(r"\d+", found)
    if major is None or int(major[0]) < OLDEST_GCC:
        raise ToolError(
            f"{compiler.name} is version {found or 'unknown'}; firmware for {profile.name} needs "
            f"gcc {OLDEST_GCC} or newer",
            where="toolchain", hint="install a newer one and put it first on PATH",
        )  # fmt: skip
    return compiler


def run_firmware(
    files: Mapping[str, bytes],
    net: FirmwareNet,
    machine: Machine,
    compiler: Compiler,
    vectors: TestVectors,
    *,
    timeout_s: float = RUN_TIMEOUT_S,
) -> FirmwareRun:
    """Build a bundle's library for a machine, run it there and weigh it.

    Args:
        files: of `emit.Code` or of a bundle.
        net: the network.
        machine: the core, as an emulator has it.
        compiler: of the board.
        vectors: whose inputs are run.
        timeout_s: for each run.

    Raises:
        ToolError: the compiler fails, the program faults or hangs, or says something odd.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        work = Path(folder)
        library = _Library(files, net, compiler, work)
        (work / "inputs.bin").write_bytes(vectors.input_bytes)
        main = work / "check.c"
        section = ".bulk" if machine.bulk is not None else ".rodata.bulk"
        main.write_bytes(
            render_template("firmware_check.c.j2", net=net, count=vectors.count, section=section)
        )
        image = library.image(machine, main, "check")
        done = machines.run(image, count=True, timeout_s=timeout_s)
        profiled = library.image(machine, main, "profile", profiled=True)
        each = machines.run(profiled, count=True, timeout_s=timeout_s)
        empty = library.size(machine, "empty")
        filled = library.size(machine, "filled")
        depth = library.depth()
    said = _Said(done.lines, net, vectors)
    if len(done.regions) != 2 or len(each.regions) != net.kernels + 1:
        raise ToolError(
            f"counted {len(done.regions)} and {len(each.regions)} regions", where="firmware",
            hint="this is a bug of edgeopt: please report it with the model",
        )  # fmt: skip
    return FirmwareRun(
        outputs=said.outputs(),
        self_test=said.self_test(machine),
        init_instructions=done.regions[0],
        run_instructions=done.regions[1],
        kernel_instructions=each.regions[:-1],
        stack_bytes=depth.bound_bytes,
        stack_path=depth.path,
        stack_seen_bytes=said.number("stack"),
        flash_bytes=filled.flash_bytes - empty.flash_bytes,
        static_bytes=_variables(filled) - _variables(empty),
    )


def linked_bytes(
    files: Mapping[str, bytes], net: FirmwareNet, machine: Machine, compiler: Compiler
) -> int:
    """What a bundle's library adds to the flash of a linked image, as `run_firmware` states it.

    Raises:
        ToolError: the compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        library = _Library(files, net, compiler, Path(folder))
        return (
            library.size(machine, "filled").flash_bytes - library.size(machine, "empty").flash_bytes
        )


def compiled(source: str, compiler: Compiler) -> bytes:
    """The object of a file of kernels, compiled as a bundle's are.

    Raises:
        ToolError: the compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        work = Path(folder)
        (work / "kernels.c").write_text(source, "utf-8")
        toolchain.compile_object(
            compiler, work / "kernels.c", work / "kernels.o",
            flags=(*FLAGS, *STRICT_FLAGS), work=work,
        )  # fmt: skip
        return (work / "kernels.o").read_bytes()


def _variables(image: machines.Image) -> int:
    """Bytes of the variables in an image; sections are rounded, so symbols are asked."""
    ram = image.machine.ram
    return sum(
        symbol.size_bytes
        for symbol in image.symbols
        if not symbol.is_function and 0 <= symbol.address - ram.address < ram.size_bytes
    )


def build_bench(
    files: Mapping[str, bytes], net: FirmwareNet, machine: Machine, compiler: Compiler, work: Path
) -> Path:
    """The bench firmware of a bundle, for an emulated machine; an ELF file in ``work``.

    Raises:
        ToolError: the compiler fails.
    """
    work = work.resolve()
    library = _Library(files, net, compiler, work)
    place = work / "bench"
    place.mkdir(exist_ok=True)
    names_of = ("edgeopt_line", "edgeopt_counter")
    for name in (f"{stem}.{end}" for stem in names_of for end in "ch"):
        (place / name).write_bytes(runtime_file(name))
    (place / "bench.c").write_bytes(render_template("firmware_bench.c.j2", net=net))
    sources = [place / f"{stem}.c" for stem in ("bench", *names_of)]
    return machines.build(
        machine, sources, place, name="bench", includes=(place, *library.includes), flags=FLAGS,
        objects=[library.profiled(), *library.objects], compiler=compiler,
    ).path  # fmt: skip


class _Library:
    """The objects of a bundle's library, and programs linked with them."""

    def __init__(
        self, files: Mapping[str, bytes], net: FirmwareNet, compiler: Compiler, work: Path
    ) -> None:
        self.net, self.compiler, self.work = net, compiler, work
        for path, content in files.items():
            if path.startswith(("include/", "src/", "kernels/")):
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                (work / path).write_bytes(content)
        sources = [p for p in sorted(files) if p.startswith(("src/", "kernels/"))]
        self.runner = f"src/{net.id}.c"
        self.objects = [self._compile(p) for p in sources if p.endswith(".c") and p != self.runner]
        self.objects += [work / p for p in sources if p.endswith(".o")]
        self.plain = self._compile(self.runner)

    @property
    def includes(self) -> tuple[Path, ...]:
        return (self.work / "include", self.work / "src", self.work)

    def _compile(self, path: str, defines: Mapping[str, str] | None = None) -> Path:
        suffix = ".profile.o" if defines else ".o"
        target = self.work / (path.replace("/", "_").removesuffix(".c") + suffix)
        toolchain.compile_object(
            self.compiler, self.work / path, target, includes=self.includes, defines=defines,
            flags=(*FLAGS, *STRICT_FLAGS, *stack.FLAGS), work=self.work,
        )  # fmt: skip
        return target

    def profiled(self) -> Path:
        """The runner with the hooks that say when a kernel ends."""
        return self._compile(self.runner, {f"{self.net.macro}_PROFILE": "1"})

    def image(
        self, machine: Machine, main: Path, name: str, *, profiled: bool = False
    ) -> machines.Image:
        """A program of ``main`` and the library."""
        defines = {f"{self.net.macro}_PROFILE": "1"} if profiled else {}
        runner = self.profiled() if profiled else self.plain
        return machines.build(
            machine, [main], self.work / name, name=name, includes=self.includes, defines=defines,
            flags=FLAGS, objects=[runner, *self.objects], compiler=self.compiler,
        )  # fmt: skip

    def size(self, machine: Machine, name: str) -> machines.Image:
        """A program that is nothing but start-up code, or that and the network."""
        main = self.work / f"size_{name}.c"
        main.write_bytes(render_template("firmware_size.c.j2", net=self.net, empty=name == "empty"))
        objects = [] if name == "empty" else [self.plain, *self.objects]
        return machines.build(
            machine, [main], self.work / name, name=name, includes=self.includes, flags=FLAGS,
            objects=objects,
            compiler=replace(self.compiler, link_flags=(*self.compiler.link_flags, *_MEMORY)),
        )  # fmt: skip

    def depth(self) -> stack.Depth:
        """The stack of one inference, by the compiler's notes on every object."""
        found = sorted(self.work.glob("*.ci"))
        notes = [path.read_text() for path in found if not path.match("*.profile.ci")]
        try:
            return stack.depth(notes, f"{self.net.id}_run")
        except stack.StackError as error:
            raise ToolError(
                f"the stack has no bound: {error}", where="firmware",
                hint="this is a bug of edgeopt: please report it with the model",
            ) from error  # fmt: skip


#: The arena, inputs and outputs are counted apart: in size programs they are an address.
_MEMORY = ("-Wl,--defsym=size_memory=0x20000000",)


class _Said:
    """What a check program printed."""

    def __init__(self, lines: Sequence[str], net: FirmwareNet, vectors: TestVectors) -> None:
        self.lines, self.net, self.vectors = lines, net, vectors
        if not lines or lines[-1] != "done":
            raise self._odd("it did not get to its end")

    def _odd(self, what: str) -> ToolError:
        last = self.lines[-1][:80] if self.lines else ""
        return ToolError(
            f"{what}; the last line is {last!r}", where="firmware",
            hint="this is a bug of edgeopt: please report it with the model",
        )  # fmt: skip

    def number(self, what: str) -> int:
        """The number after a word that is printed once."""
        found = [line.split()[-1] for line in self.lines if line.startswith(f"{what} ")]
        if len(found) != 1 or not found[0].isdecimal():
            raise self._odd(f"{what!r} was printed {len(found)} times")
        return int(found[0])

    def outputs(self) -> dict[str, Array]:
        """The outputs of all vectors, by name."""
        failed = {line for line in self.lines if line.startswith("run ") and line != "run 0"}
        if failed:
            raise self._odd(f"a run returned status {sorted(failed)[0][4:]}")
        shown = [line[4:] for line in self.lines if line.startswith("out ")]
        tensors = [
            Tensor(name, tuple(array.shape[1:]), dtype_of(array))
            for name, array in self.vectors.outputs.items()
        ]
        try:
            data = bytes.fromhex("".join(shown))
            arrays = unpack(data, tensors, self.vectors.count)
        except ValueError as error:
            raise self._odd(f"the outputs cannot be read ({error})") from error
        return {t.name: array for t, array in zip(tensors, arrays, strict=True)}

    def self_test(self, machine: Machine) -> Comparison:
        """The verdict of the embedded vectors."""
        where = f"{machine.core} under {machine.qemu[0]}"
        if not self.net.embedded:
            return Comparison("self-test", where, "skipped", "no vectors are embedded")
        code = self.number("self-test")
        return Comparison(
            "self-test", where, "passed" if code == 0 else "failed",
            f"{self.net.embedded} embedded vectors, status {code}",
        )  # fmt: skip
