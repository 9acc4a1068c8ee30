"""`compile_network`: one function of named stages, from a budget to a verified bundle.

Stages pass frozen values. Slow ones keep their result in the stage cache under a digest of
everything that went into it; a repeated compile redoes only what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from edgeopt import __version__, devices
from edgeopt.codegen import ckernels, cost, plan_picture, schedules
from edgeopt.codegen.objects import object_size
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InfeasibleError, InputError, suggest
from edgeopt.core.estimates import Budget, Source
from edgeopt.core.files import write_atomic
from edgeopt.core.precision import write_plan
from edgeopt.pipeline import bundle, figures, firmware, mixed, overruns, plans, source
from edgeopt.pipeline.artifact import Artifact, build_kernels, make_artifact, versions
from edgeopt.pipeline.cache import Files, StageCache, default_cache_dir
from edgeopt.pipeline.manifest import SCHEMA, Manifest
from edgeopt.pipeline.proof import prove, prove_firmware
from edgeopt.pipeline.tiles import choices_of
from edgeopt.pipeline.tuning import tuned

#: Searches for one network: estimates are corrected by what came out.
ATTEMPTS = 4
#: Usual kernels are compiled to see whether a network fits with them if so much of their estimate
#: does: for int8 none in benchmarks/code_sizes.py was higher by more.
_SURELY = 0.85

STAGES = ("device", "search", "network", "quantize", "lower", "kernels", "render", "verify",
          "bundle")  # fmt: skip
PRECISIONS = {"fp32": "f32", "int8": "i8"}


class Progress(Protocol):
    """Takes ``start``, ``detail`` and ``end`` of stages."""

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        """Take one event."""
        ...


def no_progress(event: str, fields: Mapping[str, object]) -> None:
    """Takes events and does nothing."""


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """Everything a compile depends on.

    Attributes:
        device: name or path of a device profile.
        out: the bundle's folder.
        model: an ONNX file; None searches the zoo entry ``supernet``.
        budget: constraints on the predicted figures.
        precision: ``auto``, ``fp32``, ``int8``, or ``mixed``: int8 whose weights may have fewer
            bits, layer by layer.
        plan: a file that says how many bits the weights of each layer of ``model`` have.
        data: calibration images instead of the zoo's own.
        input_shapes: ``name=1x3x224x224`` for dynamic inputs.
        io: inputs and outputs ``int8``, ``float``, or as the ``model`` has them.
        name: prefix of the generated C.
        threads: that an inference may use at most.
        patches: ``off``, ``auto`` or how many strips of rows the first kernels run in.
        force: replace an existing bundle.
        strict: refuse kernels that the latency table does not hold.
        any_table: predict from a table of other code, governor or threads too.
        tune: search wide for the tilings of so many of the slowest kernels, by measuring them.
        dump_dir: where every stage's output is written, numbered.
        command: what the manifest calls the command.
    """

    device: str
    out: Path
    model: Path | None = None
    supernet: str = "cifar_mbv3"
    budget: Budget = field(default_factory=Budget)
    precision: str = "auto"
    plan: Path | None = None
    data: Path | None = None
    input_shapes: tuple[str, ...] = ()
    io: str = "model"
    name: str = "net"
    threads: int = 1
    patches: str = "off"
    seed: int = 0
    force: bool = False
    strict: bool = False
    any_table: bool = False
    tune: int | None = None
    dump_dir: Path | None = None
    cache: bool = True
    profile_dirs: tuple[Path, ...] = ()
    command: str = "edgeopt compile"


class _Run:
    """The stages of one compile: progress, cache and dumps in one place."""

    def __init__(self, request: CompileRequest, progress: Progress) -> None:
        self.progress = progress
        self.cache = StageCache(default_cache_dir() if request.cache else None)
        self.misses: list[str] = []  # of earlier searches
        self.estimated: dict[str, float] = {}  # what the last search took its network for
        self._dump = request.dump_dir
        self._number = 0
        if self._dump is not None:
            self._dump.mkdir(parents=True, exist_ok=True)

    def start(self, stage: str) -> None:
        self.progress("start", {"stage": stage})

    def detail(self, stage: str, text: str) -> None:
        self.progress("detail", {"stage": stage, "text": text})

    def end(self, stage: str, text: str, *, cached: bool = False) -> None:
        self._number += 1
        self.progress("end", {"stage": stage, "text": text, "cached": cached})

    def dump(self, files: Files) -> None:
        """Write a finished stage's output under its number."""
        if self._dump is not None:
            for name, data in files.items():
                write_atomic(self._dump / f"{self._number:02d}-{name.replace('/', '-')}", data)

    def cached(
        self, stage: str, inputs: Mapping[str, str], make: Callable[[], Files]
    ) -> tuple[Files, bool]:
        return self.cache.get_or_make(stage, inputs, make)


def compile_network(request: CompileRequest, progress: Progress = no_progress) -> Manifest:
    """Compile a zoo subnet or an ONNX network for a device and write the bundle.

    Returns:
        The bundle's manifest.

    Raises:
        InputError: a bad option, model, profile or output folder.
        InfeasibleError: no candidate meets the budget.
        ToolError: a compiler is missing, or a check of the artifact failed.
    """
    bundle.check_output(request.out, force=request.force)
    run = _Run(request, progress)

    run.start("device")
    profile = devices.load(request.device, request.profile_dirs).with_threads(request.threads)
    if request.budget.flash_bytes is not None:
        # Nothing is known by measuring of the kernels that flash is saved with.
        profile = profile.compacted(not request.strict)
    precisions = _precisions(request.precision, profile)
    if profile.compact and _has_plenty(request, profile.compacted(False), precisions):
        profile = profile.compacted(False)
    board = firmware.board_of(profile) if profile.kind == "firmware" else None
    run.end("device", f"{profile.title}, {', '.join(_names(precisions))}")

    wanted, asked = request, request.budget
    over: overruns.OverBudgetError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _compile(wanted, asked, run, profile, board, precisions)
        except InfeasibleError as error:
            if over is None:
                raise
            raise overruns.refuse(over.found, profile) from error
        except overruns.OverBudgetError as missed:
            over = missed
            if request.model is not None or attempt == ATTEMPTS:
                raise overruns.refuse(over.found, profile) from missed
            # Estimates stood behind the search; what came out says how far they were off.
            budget = overruns.tightened(wanted.budget, over.found, asked, attempt, run.estimated)
            wanted = replace(wanted, budget=budget)
            run.misses.append("; ".join(excess.text for excess in over.found))
            run.detail("search", f"{run.misses[-1]}: searching again")
    raise AssertionError


def _compile(
    request: CompileRequest,
    asked: Budget,
    run: _Run,
    profile: DeviceProfile,
    board: firmware.Board | None,
    precisions: tuple[str, ...],
) -> Manifest:
    """One pass through the stages; ``asked`` is the budget that counts in the end."""
    run.start("search")
    chosen = source.choose(request, profile, precisions, run.cached, run.detail)
    run.estimated = chosen.estimated
    run.end("search", chosen.summary, cached=chosen.cached)
    run.dump({"search.json": chosen.document})

    run.start("network")
    network, cached = source.make_onnx(request, chosen, run.cached)
    run.end("network", f"{len(network['model.onnx']):,} bytes of ONNX", cached=cached)
    run.dump({"model.onnx": network["model.onnx"]})

    run.start("quantize")
    source.check_plan(chosen, network, profile)
    final, cached = source.quantize(request, chosen, network, run.cached)
    run.end("quantize", final.summary, cached=cached)
    run.dump({final.file_name: final.model})

    run.start("lower")
    patches = request.patches

    def made(profile: DeviceProfile) -> Artifact:
        choices = choices_of(profile)
        return make_artifact(final.imported.network, profile.target, choices, patches=patches)

    artifact = made(profile)
    if asked.flash_bytes is not None and _is_compact(artifact):
        usual = profile.compacted(False)
        faster = made(usual)
        if _is_within(asked.flash_bytes, faster, request.name, run.cache, board):
            profile, artifact = usual, faster
    if request.tune is not None:
        model = figures.model_for(profile, strict=request.strict, any_table=request.any_table)
        keys = artifact.graph.keys
        choices = choices_of(profile) | tuned(
            keys, profile, model, request.tune, run.cache, lambda text: run.detail("lower", text)
        )
        artifact = make_artifact(final.imported.network, profile.target, choices, patches=patches)
    if board is not None:
        firmware.check_fits(profile, artifact, asked)
    run.end("lower", _summary(artifact))
    run.dump({"kernels.txt": "\n".join(map(str, artifact.graph.keys)).encode() + b"\n"})

    run.start("kernels")
    kernels, cached = build_kernels(artifact, request.name, run.cache)
    kind = "object code" if board is None else "C"
    run.end("kernels", f"{len(kernels):,} bytes of {kind}", cached=cached)
    run.dump({artifact.kernel_file: kernels})
    if board is None:
        overruns.check(figures.static(artifact, kernels), asked)

    run.start("render")
    vectors = source.test_vectors(final, network, run.cached)
    own = vectors if board is None else firmware.reference(artifact, vectors, run.cached)
    facts = bundle.describe(chosen, final)
    origin = {chosen.source: chosen.source_sha256}
    code = bundle.render_code(request.name, request.command, origin, artifact, kernels, own)
    files = bundle.code_files(code, profile, final, network["model.onnx"], facts)
    if final.plan is not None:
        files[plans.FILE_NAME] = write_plan(final.plan).encode()
    files["memory.svg"] = plan_picture.svg(artifact.graph, artifact.plan).encode()
    run.end("render", f"{len(files)} files")

    run.start("verify")
    if board is None:
        proof, cached = prove(
            request.name, profile, network, final, artifact, files, vectors, run.cached, run.cache
        )
    else:
        proof, cached = prove_firmware(
            request.name, board, network, final, artifact, files, vectors, own, run.cached
        )
        overruns.check(proof.figures, asked)
    run.end("verify", proof.summary, cached=cached)

    run.start("bundle")
    model = figures.model_for(profile, strict=request.strict, any_table=request.any_table)
    known = Source.MEASURED if board is None else Source.SIMULATED
    rows = figures.kernel_table(model, artifact, proof.kernel_ns, known)
    found = (
        *figures.collect(model, chosen, artifact, kernels, proof),
        *figures.weight_bits(final.imported.network),
    )
    manifest = Manifest(
        schema=SCHEMA,
        edgeopt=__version__,
        command=request.command,
        versions=versions(),
        device=profile.name,
        device_sha256=profile.fingerprint,
        source=chosen.source,
        source_sha256=chosen.source_sha256,
        name=request.name,
        precision=final.precision,
        subnet=None if chosen.subnet is None else str(chosen.subnet),
        plan=str(chosen.block_plan or ""),
        seed=request.seed,
        budget=_budget(asked),
        search=chosen.statistics,
        figures=found,
        inputs=bundle.interface(artifact, inputs=True),
        outputs=bundle.interface(artifact, inputs=False),
        kernels=rows,
        buffers=bundle.buffers(artifact),
        checks=proof.checks,
        notes=(
            *chosen.notes,
            *final.notes,
            *final.imported.notes,
            *figures.fallback_notes(artifact, rows),
            *figures.widened_notes(final.imported.network, artifact),
            *_notes(artifact, request),
            *_compact_notes(artifact),
            *overruns.notes(found, asked),
            *(f"searched again: a network found before took {miss}" for miss in run.misses),
        ),
        files={},
        threads=artifact.threads,
        io=request.io,
    )
    manifest = bundle.write(manifest, files, chosen.points, request.out, force=request.force)
    run.end("bundle", str(request.out))
    proof.require()
    return manifest


def _precisions(text: str, profile: DeviceProfile) -> tuple[str, ...]:
    if text == "auto":
        return profile.precisions
    if text == mixed.NAME:
        mixed.check_board(profile)
        return ("i8",)
    if text not in PRECISIONS:
        known = ["auto", *PRECISIONS, mixed.NAME]
        raise InputError(
            f"unknown precision {text!r}", where="--precision",
            hint=suggest(text, known, noun="precision"),
        )  # fmt: skip
    if PRECISIONS[text] not in profile.precisions:
        raise InputError(
            f"device {profile.name} has no {text} kernels", where="--precision",
            hint=f"it has: {', '.join(_names(profile.precisions))}",
        )  # fmt: skip
    return (PRECISIONS[text],)


def _names(precisions: tuple[str, ...]) -> list[str]:
    back = {value: name for name, value in PRECISIONS.items()}
    return [back.get(p, p) for p in precisions]


def _budget(budget: Budget) -> dict[str, float]:
    values = {
        "latency_ns": budget.latency_ns,
        "ram_bytes": budget.ram_bytes,
        "flash_bytes": budget.flash_bytes,
        "min_accuracy": budget.min_accuracy,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _summary(artifact: Artifact) -> str:
    text = (
        f"{len(artifact.graph.kernels)} kernels, {len(set(artifact.graph.keys))} different, "
        f"arena {artifact.plan.arena_bytes:,} bytes"
    )
    if artifact.threads > 1:
        divided = sum(function.parts > 1 for function in artifact.functions)
        text += f", {divided} divided between {artifact.threads} threads"
    if artifact.fallbacks:
        text += f", {len(artifact.fallbacks)} without a template"
    return text


def _has_plenty(
    request: CompileRequest, profile: DeviceProfile, precisions: tuple[str, ...]
) -> bool:
    """Whether all that can be found is expected to fit, by the largest network there is.

    A search then reckons with usual kernels, which are faster.
    """
    from edgeopt import zoo
    from edgeopt.ofa.describe import describe

    limit = request.budget.flash_bytes
    if request.model is not None or limit is None:
        return False
    known = mixed.find_entry if request.precision == mixed.NAME else zoo.load
    space = known(request.supernet).space
    largest = describe(space, space.max_config())
    return all(
        cost.evaluate(largest, p, profile.target, place=False).flash_bytes_estimate
        <= _SURELY * limit
        for p in precisions
    )


def _is_within(
    flash_bytes: int, artifact: Artifact, name: str, cache: StageCache, board: firmware.Board | None
) -> bool:
    """Whether constants and code take no more; what is far too large is not compiled for that."""
    code: dict[str, int] = {}
    for key in artifact.graph.keys if board is None else ():
        code |= cost.code_bytes(key, artifact.target)
    if artifact.weight_bytes + _SURELY * sum(code.values()) > flash_bytes:
        return False
    kernels, _ = build_kernels(artifact, name, cache)
    if board is not None:
        return firmware.linked_bytes(name, board, artifact, kernels) <= flash_bytes
    return artifact.weight_bytes + object_size(kernels).code_bytes <= flash_bytes


def _is_compact(artifact: Artifact) -> bool:
    """Whether kernels or their constants differ from usual ones, to take fewer bytes."""
    return artifact.target.narrow or _shares_code(artifact)


def _shares_code(artifact: Artifact) -> bool:
    target = artifact.target
    if ckernels.applies(target):
        return target.compact
    return any(schedules.is_compact(key, target) for key in artifact.graph.keys)


def _compact_notes(artifact: Artifact) -> tuple[str, ...]:
    """What kernels that take few bytes cost."""
    if not _is_compact(artifact):
        return ()
    how = []
    if _shares_code(artifact):
        in_c = ckernels.applies(artifact.target)
        slower = "at most an eighth" if in_c else "an eighth to a quarter"
        how.append(f"kernels share their code, which makes networks {slower} slower")
    if artifact.target.narrow:
        how.append("bias and multiplier of a channel are one word, brought to two in scratch")
    return (f"compiled for few bytes, as --flash asks: {'; '.join(how)} (docs/compile.md)",)


def _notes(artifact: Artifact, request: CompileRequest) -> tuple[str, ...]:
    notes, threads = [], request.threads
    if artifact.patches is not None:
        notes.append(str(artifact.patches))
    elif request.patches == "auto":
        notes.append("patches were not used: they would not make the arena smaller")
    if artifact.threads < threads:
        notes.append(
            f"compiled for {artifact.threads} thread{'s' if artifact.threads > 1 else ''} instead "
            f"of {threads}: the network is too small to gain from more"
        )
    return tuple(notes)
