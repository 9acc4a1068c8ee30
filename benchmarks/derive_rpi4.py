"""Derive the latency figures of rpi4 and rpi5 from block latencies measured on a Raspberry Pi 4.

The source is the FBNet search space of HW-NAS-Bench: 12 layer classes x 8 blocks at 32x32 input.
Each block is written as the kernels it consists of, and non-negative costs per kernel class are
fitted to the measured times. Errors are of rows whose layer class was left out of the fit.

    EDGEOPT_DATA=... python benchmarks/derive_rpi4.py [--write]
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt.core.files import write_atomic
from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF, TERMS, features
from edgeopt.latency.fit import ErrorReport, Matrix, compare, fit_costs

SPILL_BYTES = 524_288  # half of the L2: packed weights share it with activations
HERE = Path(__file__).resolve().parent
PROFILES = HERE.parent / "device_profiles"

#: (class, term) pairs that the data can tell apart. Convolutions share the pointwise costs.
FITTED = (
    ("pointwise", "per_call"),
    ("pointwise", "per_mac"),
    ("pointwise", "per_weight_byte"),
    ("pointwise", "per_spilled_byte"),
    ("depthwise", "per_call"),
    ("depthwise", "per_mac"),
    ("elementwise", "per_call"),
    ("any", "per_activation_byte"),
)


@dataclass(frozen=True, slots=True)
class Row:
    layer_class: str
    op: str
    latency_ns: float
    added: tuple[OpKey, ...]
    removed: tuple[OpKey, ...]  # the skip path the figure is relative to

    @property
    def grouped(self) -> bool:
        return self.op.endswith("_g2")


def conv(op: str, h: int, c_in: int, c_out: int, k: int, stride: int, groups: int) -> OpKey:
    h_out = h // stride
    pad = k // 2
    return OpKey(
        op, (h, h, c_in), (h_out, h_out, c_out), kernel=(k, k), strides=(stride, stride),
        pads=(pad, pad, pad, pad), groups=groups,
    )  # fmt: skip


def kernels(row: dict[str, str]) -> tuple[list[OpKey], list[OpKey]]:
    """The kernels of a block, and those of the skip path it is measured against."""
    h, c_in, c_out, stride = (int(row[name]) for name in ("h_in", "c_in", "c_out", "stride"))
    parts = row["op"].split("_")
    k, expand, groups = int(parts[0][1:]), int(parts[1][1:]), 2 if len(parts) == 3 else 1
    middle, h_out = c_in * expand, h // stride
    pointwise = "pointwise" if groups == 1 else "conv2d"
    added = [conv(pointwise, h, c_in, middle, 1, 1, groups)]
    if groups == 2:  # channel shuffle
        added.append(OpKey("transpose", (h, h, middle), (h, h, middle)))
    added.append(conv("depthwise", h, middle, middle, k, stride, middle))
    added.append(conv(pointwise, h_out, middle, c_out, 1, 1, groups))
    if stride == 1 and c_in == c_out:
        added.append(OpKey("add", (h, h, c_out), (h, h, c_out), inputs=2))
    removed = []
    if row["reference"] == "minus_downsample_skip":
        removed.append(conv("conv2d", h, c_in, c_out, 1, stride, 1))
    return added, removed


def read_rows(data: Path) -> list[Row]:
    path = data / "latency" / "fbnet_cifar100_block_lut_hwnasbench.csv"
    rows = []
    with path.open(newline="") as stream:
        for record in csv.DictReader(stream):
            if record["layer_class"] == "const":
                continue
            added, removed = kernels(record)
            latency_ns = float(record["raspi4_ms"]) * 1e6
            rows.append(
                Row(record["layer_class"], record["op"], latency_ns, tuple(added), tuple(removed))
            )
    return rows


def terms(row: Row) -> list[float]:
    total: Counter[tuple[str, str]] = Counter()
    for sign, keys in ((1, row.added), (-1, row.removed)):
        for key in keys:
            kind = "pointwise" if key.op == "conv2d" else CLASS_OF[key.op]
            for term, value in zip(TERMS, features(key, SPILL_BYTES), strict=True):
                name = "any" if term == "per_activation_byte" else kind
                total[name, term] += sign * value
    return [total[pair] for pair in FITTED]


def derive(data: Path) -> tuple[dict[tuple[str, str], float], ErrorReport, ErrorReport]:
    """Costs in nanoseconds; error of left-out layer classes; error of the grouped blocks."""
    rows = read_rows(data)
    fitted = [row for row in rows if not row.grouped]
    other = [row for row in rows if row.grouped]
    matrix = np.array([terms(row) for row in fitted])
    times = np.array([row.latency_ns for row in fitted])
    factors = fit_costs(matrix, times)
    predicted = np.zeros(len(fitted))
    classes = np.array([row.layer_class for row in fitted])
    for name in sorted(set(classes)):
        inside = classes == name
        predicted[inside] = matrix[inside] @ fit_costs(matrix[~inside], times[~inside])
    other_times: Matrix = np.array([row.latency_ns for row in other])
    other_predicted = np.array([terms(row) for row in other]) @ factors
    costs = dict(zip(FITTED, (float(value) for value in factors), strict=True))
    return costs, compare(predicted, times), compare(other_predicted, other_times)


ORIGIN = (
    "HW-NAS-Bench (MIT licence), FBNet blocks at 32x32 on a Raspberry Pi 4, recovered from the "
    "totals published with HELP (MIT licence, commit 45f70eb)"
)


@dataclass(frozen=True, slots=True)
class Board:
    """How a board's figures follow from the fitted ones."""

    name: str
    how: str
    scale: float  # of every fitted cost
    scale_why: str
    floor: dict[str, float]  # ns a multiply-accumulate, by precision
    floor_why: dict[str, str]
    int8: dict[str, float]  # class -> cost of a multiply-accumulate relative to f32
    int8_why: str
    interval: dict[str, tuple[float, float, str]]


RPI4 = Board(
    name="rpi4",
    how="estimated: costs fitted to blocks measured on a Raspberry Pi 4 under another, unnamed "
    "runtime and thread count; not measured with edgeopt's kernels",
    scale=1.0,
    scale_why=f"fitted by benchmarks/derive_rpi4.py to {ORIGIN}",
    floor={"f32": 1 / (4 * 1.5 * 0.7), "i8": 1 / (16 / 3 * 1.5 * 0.7)},
    floor_why={
        "f32": "one 4-lane FMLA a cycle (Arm Cortex-A72 Software Optimization Guide, 3.14) at "
        "1.5 GHz, of which 70 % is taken to be sustained; the fitted rate of pointwise "
        "convolutions is above one core's peak, so its source ran more than one thread",
        "i8": "SMULL, SMLAL, SADALP make 16 products in three cycles (same guide, 3.13) at "
        "1.5 GHz, of which 70 % is taken to be sustained",
    },
    int8={"pointwise": 0.75, "depthwise": 0.9},
    int8_why="assumed from instruction throughput: without SDOT, 16 products take SMULL, SMLAL "
    "and SADALP, three cycles against four of FMLA",
    interval={
        "f32": (0.35, 1.6, "90 % of held-out blocks lie within about 25 %; the rest allows for a "
                "runtime and thread count other than the source's"),
        "i8": (0.25, 2.5, "no int8 measurement stands behind the ratio to f32"),
    },
)  # fmt: skip
RPI5 = Board(
    name="rpi5",
    how="estimated: the figures of rpi4 divided by 3.2; nothing was measured on this board",
    scale=1 / 3.2,
    scale_why="rpi4's figure / 3.2: on public measurements of whole networks under ONNX Runtime "
    "a Raspberry Pi 5 is 2.9 to 3.6 times as fast as a Raspberry Pi 4",
    floor={"f32": 1 / (8 * 2.4 * 0.7), "i8": 1 / (32 * 2.4 * 0.5)},
    floor_why={
        "f32": "two 4-lane FMLA a cycle (Arm Cortex-A76 Software Optimization Guide, 3.14) at "
        "2.4 GHz, of which 70 % is taken to be sustained",
        "i8": "two SDOT of 16 products a cycle (same guide) at 2.4 GHz, of which 50 % is taken "
        "to be sustained",
    },
    int8={"pointwise": 0.45, "depthwise": 0.8},
    int8_why="assumed from instruction throughput: SDOT makes 16 products where FMLA makes 4; "
    "loads and requantization take back about half",
    interval={
        "f32": (0.3, 2.0, "rpi4's interval, widened for the ratio between the boards"),
        "i8": (0.2, 3.0, "no int8 measurement stands behind the ratio to f32"),
    },
)

CALL_NS = 2000.0  # a call, its loop set-up and cold first lines, for classes the data lacks


def entries(
    board: Board, costs: dict[tuple[str, str], float], precision: str
) -> dict[str, tuple[dict[str, float], str, str]]:
    """Class -> (terms in ns, source, reference)."""
    integer = precision == "i8"
    byte = costs["any", "per_activation_byte"] * (2.0 if integer else 1.0)
    call = CALL_NS / board.scale
    fitted, assumed = board.scale_why, f"assumed like the fitted classes; {board.scale_why}"
    if integer:
        fitted = assumed = (
            f"{board.int8_why}; a byte costs twice the f32 figure, for requantization"
        )

    def accumulate(kind: str, **extra: float) -> dict[str, float]:
        ratio = board.int8[kind] if integer else 1.0
        return {"per_mac": costs[kind, "per_mac"] * ratio, "per_activation_byte": byte, **extra}

    weights = {
        "per_weight_byte": costs["pointwise", "per_weight_byte"],
        "per_spilled_byte": costs["pointwise", "per_spilled_byte"],
    }
    pointwise = accumulate("pointwise", per_call=costs["pointwise", "per_call"], **weights)
    depthwise = accumulate("depthwise", per_call=costs["depthwise", "per_call"])
    return {
        "pointwise": (pointwise, "estimated", fitted),
        "conv2d": (pointwise, "estimated", f"as pointwise: {fitted}"),
        "linear": (pointwise | {"per_call": call}, "estimated", f"as pointwise: {fitted}"),
        "depthwise": (depthwise, "estimated", fitted),
        "elementwise": (
            {"per_call": call, "per_activation_byte": byte}, "estimated",
            f"{fitted}; the dispatch of that runtime, found to be "
            f"{costs['elementwise', 'per_call'] / 1e3:.0f} us, is left out: generated C has none",
        ),
        "pooling": ({"per_call": call, "per_activation_byte": byte}, "estimated", assumed),
        "movement": ({"per_call": call, "per_activation_byte": byte}, "estimated", assumed),
        "softmax": (
            {"per_call": call, "per_activation_byte": byte, "per_output": 20.0},
            "estimated", assumed,
        ),
        "fallback": (
            {"per_call": call, "per_activation_byte": 10 * byte},
            "estimated", f"ten times a scheduled kernel's cost of a byte; {assumed}",
        ),
    }  # fmt: skip


def render(data: Path, board: Board) -> str:
    """The text of the board's latency.toml."""
    costs, held_out, other = derive(data)
    rows = read_rows(data)
    lines = [
        "# Written by benchmarks/derive_rpi4.py: change that script, not this file.",
        "schema = 1",
        'unit = "ns"',
        'runtime = "edgeopt"',
        "threads = 1",
        f"spill_bytes = {SPILL_BYTES}",
        f'how = "{board.how}"',
        "",
        "[held_out]",
        f'reference = "{ORIGIN}: {held_out.count} of {len(rows)} blocks, predicted with their '
        f"layer class left out of the fit; mape_other_rows is of the {other.count} blocks with "
        'grouped convolutions, never fitted"',
        f"rows = {held_out.count}",
        f"mape = {held_out.mape:.4f}",
        f"median_error = {held_out.median_error:.4f}",
        f"worst_error = {held_out.worst_error:.4f}",
        f"spearman = {held_out.spearman:.4f}",
        f"mape_other_rows = {other.mape:.4f}",
    ]
    if board.name != "rpi4":
        lines = list(lines[: lines.index("[held_out]") - 1])
    for precision, (low, high, why) in board.interval.items():
        lines += [
            "", f"[{precision}.interval]", f"low = {low}", f"high = {high}",
            f'reference = "{why}"',
            "", f"[{precision}.floor]", f"per_mac = {board.floor[precision]:.4g}",
            'source = "estimated"', f'reference = "{board.floor_why[precision]}"',
        ]  # fmt: skip
        for name, (values, source, reference) in entries(board, costs, precision).items():
            lines += ["", f"[{precision}.{name}]"]
            lines += [f"{k} = {v * board.scale:.4g}" for k, v in values.items() if v > 0]
            lines += [f'source = "{source}"', f'reference = "{reference}"']
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the boards' latency.toml")
    arguments = parser.parse_args()
    data = Path(os.environ["EDGEOPT_DATA"])
    costs, held_out, other = derive(data)
    for (kind, term), value in costs.items():
        print(f"{kind:12} {term:20} {value:12.6g} ns")
    print("left-out layer classes:", held_out)
    print("grouped blocks, never fitted:", other)
    if arguments.write:
        for board in (RPI4, RPI5):
            write_atomic(PROFILES / board.name / "latency.toml", render(data, board))


if __name__ == "__main__":
    main()
