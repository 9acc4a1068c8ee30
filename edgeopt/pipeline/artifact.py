"""From a network to its kernels for one processor: functions, memory plan, constants, object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeopt.codegen import ckernels, cost, runner, schedules
from edgeopt.codegen.abi import KernelFunction
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.constants import have_words
from edgeopt.codegen.lower import lower
from edgeopt.codegen.order import order_for_memory
from edgeopt.codegen.patches import Patches, best
from edgeopt.codegen.plan import check_plan, plan
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest
from edgeopt.core.kernels import WITH_WEIGHTS, Kernel, KernelGraph, MemoryPlan, OpKey
from edgeopt.core.network import Array, Network
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_store import Job, compiled, joined

#: Threads that sleep are woken for each inference: less than this is not worth it.
WAKING_CYCLES = 30_000.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network lowered for a processor; everything but the machine code.

    Attributes:
        target: the processor.
        graph: its kernels.
        functions: one a kernel, in order.
        constants: packed constants of each kernel, in order.
        plan: the arena.
        patches: how its first kernels are divided, if they are.
    """

    target: TargetSpec
    graph: KernelGraph
    functions: tuple[KernelFunction, ...]
    constants: tuple[Mapping[str, Array], ...]
    plan: MemoryPlan
    patches: Patches | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of distinct packed constants: what they take in flash."""
        seen: dict[str, int] = {}
        for constants in self.constants:
            for array in constants.values():
                data = array.tobytes()
                seen[digest(data)] = len(data)
        return sum(seen.values())

    @property
    def kernel_file(self) -> str:
        """What a bundle calls the kernels."""
        return "kernels.c" if ckernels.applies(self.target) else "kernels.o"

    @property
    def threads(self) -> int:
        """How many threads the network can use."""
        return max((function.parts for function in self.functions), default=1)

    @property
    def fallbacks(self) -> tuple[Kernel, ...]:
        """Kernels without a template."""
        pairs = zip(self.graph.kernels, self.functions, strict=True)
        return tuple(kernel for kernel, function in pairs if function.template == "fallback")


def make_artifact(
    network: Network,
    target: TargetSpec,
    choices: Mapping[OpKey, Choice] | None = None,
    *,
    patches: str = "off",
) -> Artifact:
    """Lower a network, choose a function for each kernel, pack constants, plan the memory.

    Args:
        network: with its constants.
        target: the processor.
        choices: measured tilings; other kernels are tiled as their templates' models say.
        patches: ``off``, ``auto`` or how many strips of rows the first kernels run in.

    A network that several threads would hardly help is made for one: `Artifact.threads`.

    Raises:
        InputError: an operator that nothing can compile, by name; patches that cannot be.
    """
    lowered = fused(lower(network, target), target)
    if target.narrow and not _has_words(lowered):
        target = replace(target, narrow=False)
    graph, division = _divided(lowered, target, patches)
    functions = []
    constants = []
    known = choices or {}
    for kernel in graph.kernels:
        template = schedules.select(kernel.key, target, known.get(kernel.key, MODEL))
        if template is None:
            from edgeopt.codegen import fallback

            functions.append(fallback.function(kernel, target))
            constants.append(fallback.pack(kernel, target))
        else:
            functions.append(template.function(kernel.key, target))
            constants.append(template.pack(kernel.key, target, kernel.constants))
    if target.threads > 1 and sum(f.saved_cycles for f in functions) < WAKING_CYCLES:
        return make_artifact(network, replace(target, threads=1), choices, patches=patches)
    names = [kernel.name for kernel in graph.kernels]
    scratch = {name: f.scratch_bytes for name, f in zip(names, functions, strict=True)}
    ordered = {name: f.ordered_pixels for name, f in zip(names, functions, strict=True)}
    graph = order_for_memory(graph, scratch, ordered)
    places = [names.index(kernel.name) for kernel in graph.kernels]
    alignment = runner.buffer_alignment(target)
    memory = plan(graph, scratch, alignment, ordered_pixels=ordered, exact=True)
    check_plan(graph, memory, scratch, ordered)
    return Artifact(
        target,
        graph,
        tuple(functions[place] for place in places),
        tuple(constants[place] for place in places),
        memory,
        division,
    )


def _has_words(graph: KernelGraph) -> bool:
    """Whether all biases and multipliers have words: what edgeopt quantized has, others seldom."""
    return all(
        have_words(kernel.constants)
        for kernel in graph.kernels
        if kernel.key.op in WITH_WEIGHTS and kernel.key.precision == "i8"
    )


def _divided(
    graph: KernelGraph, target: TargetSpec, wanted: str
) -> tuple[KernelGraph, Patches | None]:
    if wanted == "off":
        return graph, None
    strips = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 4 else None
    if wanted != "auto" and (strips is None or strips < 2):
        raise InputError(
            f"{wanted[:40]!r} is no number of strips", where="--patches",
            hint="off, auto, or a number from 2 on",
        )  # fmt: skip
    found = best(graph, lambda tried: cost.memory(tried, target), strips)
    # The plans that users would get are exact, and so is what they are told of them.
    whole = cost.memory(graph, target, exact=True).arena_bytes
    if found is not None and cost.memory(found[0], target, exact=True).arena_bytes >= whole:
        found = None
    if found is None and strips is not None:
        raise InputError(
            f"running the first kernels in {strips} strips of rows does not make the arena smaller",
            where="--patches", hint="another number, or auto",
        )  # fmt: skip
    if found is None:
        return graph, None
    divided, how = found
    return divided, replace(how, whole_bytes=whole)


def build_kernels(artifact: Artifact, name: str, cache: StageCache) -> tuple[bytes, bool]:
    """The relocatable object of an artifact's kernels, and whether the cache had them all.

    For a microcontroller it is C, which its own toolchain compiles with the rest.

    Args:
        artifact: what to build.
        name: of the network; its symbols carry it as a prefix.
        cache: of compiled kernels.
    """
    if ckernels.applies(artifact.target):
        prefix = runner.kernel_prefix(name)
        return ckernels.source(artifact.graph.keys, artifact.target, prefix).encode(), False
    jobs = [
        Job(kernel.key, function.choice, kernel if function.template == "fallback" else None)
        for kernel, function in zip(artifact.graph.kernels, artifact.functions, strict=True)
    ]
    objects, compiled_now = compiled(jobs, artifact.target, cache)
    return joined(jobs, objects, prefix=runner.kernel_prefix(name)), not compiled_now


def versions() -> dict[str, str]:
    """Versions of the packages that decide what comes out."""
    from importlib.metadata import version

    names = ("torch", "onnx", "onnxruntime", "apache-tvm", "apache-tvm-ffi", "numpy")
    return {name: version(name) for name in names}


def versions_text() -> str:
    """The same as one line, for cache keys."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())
