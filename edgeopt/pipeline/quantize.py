"""``edgeopt quantize``: a trained ONNX network to integers, with bits where they are needed.

Stages: load, calibrate, sensitivity, plan, round, measure, report. A plan is either stated
(``int8``, ``w4``, a file) or found: the least summed sensitivity within a budget, or the least
flash whose measured drop stays within ``max_drop``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.core.precision import LayerPrecision, PrecisionPlan, write_plan
from edgeopt.pipeline import plans
from edgeopt.pipeline.quantize_data import Data, load_data
from edgeopt.pipeline.quantize_request import QuantizeRequest
from edgeopt.pipeline.quantize_result import CurvePoint, LayerRow, Quantization
from edgeopt.quant.allocate import allocate, average_limit, flash_limit, stored_bytes

if TYPE_CHECKING:
    from edgeopt.core.network import Network
    from edgeopt.quant.allocate import Limit
    from edgeopt.quant.ptq import Prepared, PtqLayer

Say = Callable[[str, Mapping[str, object]], None]

STAGES = ("load", "calibrate", "sensitivity", "plan", "measure", "report")
DEFAULT_MAX_DROP = 1.0
#: Widths of weights that kernels know, widest first.
WIDTHS = (8, 4, 2)
#: The search for the smallest plan ends when budgets differ by less than this share of int8's.
_FINE = 0.03


def quantize_file(request: QuantizeRequest, say: Say) -> Quantization:
    """Quantize a model and write it, its plan and its report.

    Raises:
        InputError: an option, the model, the data or the plan cannot be used.
        InfeasibleError: no plan meets the budget, or int8 itself drops more than is allowed.
    """
    from edgeopt.graph.load import load_model, parse_input_shapes
    from edgeopt.graph.qdq_build import is_quantized
    from edgeopt.pipeline.quantize_report import render_quantize_report

    request.check()
    profile = _profile(request)
    say("start", {"stage": "load"})
    model = load_model(request.model, input_shapes=parse_input_shapes(request.input_shapes))
    if is_quantized(model):
        from edgeopt.graph.importer import import_model

        import_model(model)  # integers that are half there are refused here
        original = read_bytes(request.model, max_bytes=2**31, noun="ONNX model")
        write_atomic(request.out, original)
        say("end", {"stage": "load", "text": "quantized already"})
        return Quantization(
            schema=1, model=request.model.name, status="kept", precision="as it was",
            notes=("the model is quantized already and was kept as it is, byte for byte",),
        )  # fmt: skip
    shape = _input_shape(model)
    data = load_data(request.data, shape, _classes(model))
    say("end", {"stage": "load", "text": f"{request.model.name}, {len(data.judged)} images"})
    run = _Run(request, profile, model, data, say)
    result, quantized = run.all()
    say("start", {"stage": "report"})
    write_atomic(request.out, quantized.SerializeToString(deterministic=True))
    write_atomic(request.plan_out, write_plan(run.plan))
    write_atomic(request.report, render_quantize_report(result))
    say("end", {"stage": "report", "text": str(request.report)})
    return result


def _profile(request: QuantizeRequest) -> DeviceProfile | None:
    if not request.device:
        return None
    from edgeopt import devices

    profile = devices.load(request.device, request.profile_dirs)
    if "i8" not in profile.precisions:
        raise InputError(
            f"{profile.name} has no int8 kernels; it has {', '.join(profile.precisions)}",
            where="--device", hint="leave the network in float",
        )  # fmt: skip
    return profile


def _input_shape(model: Any) -> tuple[int, ...]:
    from edgeopt.graph import ir

    graph = ir.from_model(model)
    if len(graph.inputs) != 1:
        raise InputError(
            f"the network has {len(graph.inputs)} inputs; calibration feeds one",
            where=graph.name, hint="quantize a network with a single image input",
        )  # fmt: skip
    return graph.shape(graph.inputs[0])


def _classes(model: Any) -> int | None:
    """How many classes the first output tells apart."""
    from edgeopt.graph import ir

    graph = ir.from_model(model)
    known = graph.types.get(graph.outputs[0])
    if known is None or len(known.shape) != 2 or known.shape[1] < 2:
        return None
    return known.shape[1]


class _Run:
    """One quantization under way."""

    def __init__(
        self, request: QuantizeRequest, profile: DeviceProfile | None, model: Any, data: Data,
        say: Say,
    ) -> None:  # fmt: skip
        self.request, self.profile, self.data, self.say = request, profile, data, say
        self.model = model
        self.notes: list[str] = []
        self.plan = PrecisionPlan()
        self.sensitivity: dict[str, dict[int, float]] = {}
        self.curve: list[CurvePoint] = []
        self._made: dict[tuple[int, ...], tuple[float, Any, Network]] = {}

    def all(self) -> tuple[Quantization, Any]:
        """Every stage; the result, and the quantized model."""
        from edgeopt.quant.ptq import prepare

        self._begin("calibrate")
        self.prepared: Prepared = prepare(self.model, self.data.calibration)
        self._end("calibrate", f"{len(self.prepared.layers)} layers, "
                               f"{self.prepared.calibration.images} images")  # fmt: skip
        self.packed = (
            None if self.profile is None
            else plans.widths_of(self.prepared.network, self.profile.target)
        )  # fmt: skip
        self.widths = {name: self._widths(layer) for name, layer in self.prepared.layers.items()}
        self.exact = self._float_scores()
        self._begin("plan")
        self.plan, optimal = self._choose()
        self._end("plan", f"{self.plan.average_bits(self.prepared.counts):.2f} bits on average")
        self._begin("measure")
        drop, quantized, network = self._measure(self.plan)
        self._end("measure", f"drop {drop:.2f} {self.unit}")
        return self._result(drop, optimal, network), quantized

    def _begin(self, stage: str) -> None:
        self.say("start", {"stage": stage})

    def _end(self, stage: str, text: str) -> None:
        self.say("end", {"stage": stage, "text": text})

    def _detail(self, stage: str) -> Callable[[str], None]:
        return lambda text: self.say("detail", {"stage": stage, "text": text})

    # -- widths -----------------------------------------------------------------------------

    def _widths(self, layer: PtqLayer) -> tuple[int, ...]:
        """What a plan may choose for a layer: what a kernel reads packed, and int8."""
        if layer.depthwise:
            return (8,)
        return tuple(bits for bits in WIDTHS if bits == 8 or self._has(layer, bits))

    def _has(self, layer: PtqLayer, bits: int) -> bool:
        return self.packed is None or bits in self.packed[layer.name][1]

    def _check_kernels(self, plan: PrecisionPlan, where: str) -> None:
        """Refuse a plan that asks for what no kernel computes."""
        if self.profile is not None:
            plans.check_board(plan, self.prepared.network, self.profile, where=where)
            return
        for name, why in plan.obstacles(self.prepared.layers).items():
            raise InputError(
                why, where=f"{where}: layer {name!r}", hint="choose 2, 4 or 8 bits a layer"
            )

    # -- plan -------------------------------------------------------------------------------

    def _choose(self) -> tuple[PrecisionPlan, bool | None]:
        request = self.request
        if request.plan is not None:
            plan = plans.load(request.plan)
            plan.check(self.prepared.layers, where=str(request.plan))
            self._check_kernels(plan, str(request.plan))
            return self._explicit({n: plan.of(n).weight_bits for n in self.prepared.layers}), None
        if request.precision == "int8":
            return self._explicit(dict.fromkeys(self.prepared.layers, 8)), None
        if request.precision == "w4":
            chosen = {
                name: 8 if layer.depthwise else 4 for name, layer in self.prepared.layers.items()
            }
            plan = self._explicit(chosen)
            self._check_kernels(plan, "--precision w4")
            if any(layer.depthwise for layer in self.prepared.layers.values()):
                self.notes.append("depthwise layers keep 8 bits: they have few weights")
            return plan, None
        if self.profile is not None and all(w == (8,) for w in self.widths.values()):
            raise InputError(
                f"{self.profile.name} has kernels for weights of 8 bits only",
                where="--precision mixed", hint="there is nothing to mix: --precision int8",
            )  # fmt: skip
        self._rate()
        limits = self._limits()
        if limits:
            found = allocate(self.sensitivity, limits, seed=request.seed)
            return self._explicit(found.bits), found.optimal
        return self._within_drop()

    def _explicit(self, bits: Mapping[str, int]) -> PrecisionPlan:
        return PrecisionPlan(LayerPrecision(), {n: LayerPrecision(b) for n, b in bits.items()})

    def _rate(self) -> None:
        from edgeopt.quant import sensitivity

        self._begin("sensitivity")
        fewer = {n: tuple(b for b in w if b < 8) or (8,) for n, w in self.widths.items()}
        every = {n: tuple(sorted({8, *w}, reverse=True)) for n, w in fewer.items()}
        if self.request.sensitivity == "hessian":
            found = sensitivity.hessian(self.prepared, every, seed=self.request.seed)
        else:
            found = sensitivity.measured(self.prepared, every, say=self._detail("sensitivity"))
        # A layer with fewer bits never helps: what says so is noise.
        for row in found.values():
            worst = 0.0
            for bits in sorted(row, reverse=True):
                worst = row[bits] = max(row[bits], worst)
        self.sensitivity = found
        most = max(found, key=lambda n: max(found[n].values()))
        self._end("sensitivity", f"most in {most}")

    def _limits(self) -> list[Limit]:
        counts, request = self.prepared.counts, self.request
        limits = []
        if request.average_bits is not None:
            limits.append(average_limit(counts, self.widths, request.average_bits))
        if request.flash_bytes is not None:
            limits.append(flash_limit(counts, self.widths, request.flash_bytes, self._fixed()))
        return limits

    def _fixed(self) -> float:
        """Bytes of scales and biases, the same for every plan."""
        return float(sum(8 * len(layer.site.weight) for layer in self.prepared.layers.values()))

    def _bytes(self, bits: Mapping[str, int]) -> int:
        counts = self.prepared.counts
        return int(self._fixed()) + sum(stored_bytes(counts[n], b) for n, b in bits.items())

    def _within_drop(self) -> tuple[PrecisionPlan, bool | None]:
        """The smallest plan found whose measured drop is allowed: budgets are bisected."""
        allowed = self.request.max_drop
        allowed = DEFAULT_MAX_DROP if allowed is None else allowed
        counts = self.prepared.counts
        top = dict.fromkeys(self.widths, 8)
        bottom = {name: min(choices) for name, choices in self.widths.items()}
        low, high = self._bytes(bottom), self._bytes(top)
        drop = self._try(top)
        if drop > allowed:
            raise InfeasibleError(
                f"int8 alone drops {drop:.2f} {self.unit}, more than the {allowed:g} allowed",
                where="--max-drop", hint=f"allow {np.ceil(10 * drop) / 10:.1f}, or keep the float "
                "network",
            )  # fmt: skip
        best = top
        if self._try(bottom) <= allowed:
            return self._explicit(bottom), True
        optimal = True
        while high - low > _FINE * self._bytes(top):
            budget = (low + high) // 2
            limit = flash_limit(counts, self.widths, budget, self._fixed())
            found = allocate(self.sensitivity, [limit], seed=self.request.seed)
            if self._try(found.bits) <= allowed:
                best, optimal, high = dict(found.bits), found.optimal, self._bytes(found.bits)
            else:
                low = budget
        return self._explicit(best), optimal

    def _try(self, bits: Mapping[str, int]) -> float:
        plan = self._explicit(bits)
        drop = self._measure(plan)[0]
        average = plan.average_bits(self.prepared.counts)
        self.curve.append(CurvePoint(self._bytes(bits), average, drop))
        self.say("detail", {"stage": "plan", "text": f"{average:.2f} bits: drop {drop:.2f}"})
        return drop

    # -- measurement ------------------------------------------------------------------------

    @property
    def unit(self) -> str:
        """What drops are told in."""
        if self.data.labels is not None:
            return "points of top-1"
        if _classes(self.model) is not None:
            return "points of agreement with the float model's top class"
        return "% of the outputs' power as noise"

    def _float_scores(self) -> npt.NDArray[np.float32]:
        import torch

        net = self.prepared.torch
        images = np.ascontiguousarray(self.data.judged.transpose(self.prepared.perm))
        with torch.no_grad():
            parts = [net.output(x).numpy() for x in net.batches(images)]
        found: npt.NDArray[np.float32] = np.concatenate(parts)
        return found.reshape(len(found), -1)

    def _drop(self, scores: npt.NDArray[np.float32]) -> float:
        labels, exact = self.data.labels, self.exact
        if _classes(self.model) is None:
            noise = ((scores - exact).astype(np.float64) ** 2).sum()
            return 100.0 * float(noise / max((exact.astype(np.float64) ** 2).sum(), 1e-30))
        best, before = scores.argmax(1), exact.argmax(1)
        if labels is None:
            return 100.0 * float((best != before).mean())
        return 100.0 * float((before == labels).mean() - (best == labels).mean())

    def _measure(self, plan: PrecisionPlan) -> tuple[float, Any, Network]:
        """Drop on the judged images, computed exactly as on a board; the model and network."""
        from edgeopt.graph.importer import import_model
        from edgeopt.quant.export import quantize_model
        from edgeopt.quant.simulate import simulate

        key = tuple(plan.of(name).weight_bits for name in self.prepared.layers)
        if key not in self._made:
            stored = self.prepared.store(plan)
            model = quantize_model(
                self.prepared.model, self.prepared.calibration, plan=plan, stored=stored
            )
            network = import_model(model, isolated=False).network
            images = np.ascontiguousarray(self.data.judged.transpose(self.prepared.perm))
            scores = simulate(network, images, batch=self.prepared.torch.batch)
            self._made[key] = (self._drop(scores.reshape(len(scores), -1)), model, network)
        return self._made[key]

    # -- result -----------------------------------------------------------------------------

    def _result(self, drop: float, optimal: bool | None, network: Network) -> Quantization:
        from edgeopt.pipeline.quantize_figures import board_figures

        bits = {name: self.plan.of(name).weight_bits for name in self.prepared.layers}
        counts = self.prepared.counts
        rows = tuple(
            LayerRow(
                name=name, operator=operator_of(layer), weights=counts[name], bits=bits[name],
                weight_bytes=stored_bytes(counts[name], bits[name]),
                sensitivity={str(b): v for b, v in self.sensitivity.get(name, {}).items()},
            )
            for name, layer in self.prepared.layers.items()
        )  # fmt: skip
        data, labels = self.data, self.data.labels
        if data.shared:
            self.notes.append(
                f"the drop was measured on the {len(data.judged)} images that it was calibrated "
                "on: 512 or more are divided"
            )
        if labels is None:
            self.notes.append(f"there are no labels, so the drop is stated in {self.unit}")
        if optimal is False:
            self.notes.append("the solver ran out of time: a better plan may exist")
        before, after, more = board_figures(
            self.profile, self.prepared, network, any_table=self.request.any_table
        )
        right = None if labels is None else self.exact.argmax(1) == labels
        return Quantization(
            schema=1,
            model=self.request.model.name,
            status="quantized",
            precision=self.request.precision if self.request.plan is None else "plan",
            device="" if self.profile is None else self.profile.name,
            images=len(data.judged),
            calibration_images=len(data.calibration),
            data_sha256=data.sha256,
            unit=self.unit,
            float_accuracy=None if right is None else 100.0 * float(right.mean()),
            drop=drop,
            standard_error=self._uncertainty(drop),
            average_bits=self.plan.average_bits(counts),
            float_bytes=4 * sum(counts.values()),
            int8_bytes=self._bytes(dict.fromkeys(bits, 8)),
            weight_bytes=self._bytes(bits),
            optimal=optimal,
            sensitivity_method=self.request.sensitivity if self.sensitivity else "",
            layers=rows,
            curve=tuple(sorted(self.curve, key=lambda point: point.weight_bytes)),
            before=before,
            after=after,
            notes=(*self.notes, *more),
        )

    def _uncertainty(self, drop: float) -> float | None:
        """One standard error of a drop in points: by how much other images would differ."""
        if _classes(self.model) is None:
            return None
        share = min(max(abs(drop) / 100.0, 1.0 / len(self.data.judged)), 1.0)
        return 100.0 * float(np.sqrt(share / len(self.data.judged)))


def operator_of(layer: PtqLayer) -> str:
    """The kernel operator of a layer, as `edgeopt.core.kernels` calls it."""
    if layer.op.kind == "linear":
        return "linear"
    if layer.depthwise:
        return "depthwise"
    attrs = layer.op.attrs
    plain = attrs["kernel"] == (1, 1) and attrs["strides"] == (1, 1) and attrs["groups"] == 1
    return "pointwise" if plain else "conv2d"
