"""The published block latencies of three boards, as the kernels that the blocks consist of."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.kernels import OpKey
from edgeopt.latency.work import Unit

FBNET = "fbnet_cifar100_block_lut_hwnasbench.csv"
OFA = "ofa_mbv3_lut_note10.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure.

    Attributes:
        unit: the kernels.
        latency_ns: how long they took.
        group: what the row shares with others: the block's place, or its key without resolution.
        resolution: pixels a side of the network's input.
        kind: the operator, as the source calls it.
    """

    unit: Unit
    latency_ns: float
    group: str
    resolution: int
    kind: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a board's figures come from."""

    device: str
    runtime: str  # the name they are kept under: upstream does not say what ran them
    file: str
    column: str
    origin: str


HW_NAS_BENCH = (
    "HW-NAS-Bench (MIT), FBNet blocks at 32x32, recovered from the totals published with HELP "
    "(MIT, commit 45f70eb); runtime and threads not stated upstream"
)
SOURCES = (
    Source("rpi4", "hw-nas-bench", FBNET, "raspi4_ms", HW_NAS_BENCH),
    Source("pixel3", "hw-nas-bench", FBNET, "pixel3_ms", HW_NAS_BENCH),
    Source(
        "note10", "once-for-all", OFA, "mean_ms",
        "once-for-all (Apache-2.0, commit 698a5c1, tutorial/checkpoints/latency_table@note10), "
        "MobileNetV3 blocks at 160 to 224; runtime, threads and precision not stated upstream",
    ),
)  # fmt: skip


def read(source: Source, folder: Path) -> list[Row]:
    """The rows of a board; ``folder`` holds the published tables."""
    with (folder / source.file).open(newline="") as stream:
        records = list(csv.DictReader(stream))
    if source.file == OFA:
        return [_ofa(record, source.column) for record in records]
    return list(_fbnet(records, source.column))


def _conv(op: str, h: int, c_in: int, c_out: int, k: int, stride: int, groups: int) -> OpKey:
    pad = k // 2
    return OpKey(
        op, (h, h, c_in), (h // stride, h // stride, c_out), kernel=(k, k),
        strides=(stride, stride), pads=(pad, pad, pad, pad), groups=groups,
    )  # fmt: skip


def _fbnet(records: list[dict[str, str]], column: str) -> Iterator[Row]:
    for record in records:
        if record["layer_class"] == "const":  # stem, head, pooling and all skip paths in one
            continue
        h, c_in, c_out, stride = (int(record[n]) for n in ("h_in", "c_in", "c_out", "stride"))
        parts = record["op"].split("_")
        k, expand, groups = int(parts[0][1:]), int(parts[1][1:]), 2 if len(parts) == 3 else 1
        middle, h_out = c_in * expand, h // stride
        pointwise = "pointwise" if groups == 1 else "conv2d"
        keys = [_conv(pointwise, h, c_in, middle, 1, 1, groups)]
        if groups == 2:  # channel shuffle
            keys.append(OpKey("transpose", (h, h, middle), (h, h, middle)))
        keys.append(_conv("depthwise", h, middle, middle, k, stride, middle))
        keys.append(_conv(pointwise, h_out, middle, c_out, 1, 1, groups))
        if stride == 1 and c_in == c_out:
            keys.append(OpKey("add", (h, h, c_out), (h, h, c_out), inputs=2))
        removed = []
        if record["reference"] == "minus_downsample_skip":
            removed.append(_conv("conv2d", h, c_in, c_out, 1, stride, 1))
        name = f"{record['layer_class']} {record['op']}"
        yield Row(
            Unit(name, tuple(keys), tuple(removed)), float(record[column]) * 1e6,
            record["layer_class"], 32, record["op"],
        )  # fmt: skip


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


def _ofa(record: dict[str, str], column: str) -> Row:
    shape, out, op = _shape(record["input"]), _shape(record["output"]), record["op"]
    if op == "AvgPool2D":
        keys = [OpKey("global_avgpool", shape, out)]
    elif op == "Conv":
        keys = [
            OpKey("conv2d", shape, out, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
                  activation="hardswish")
        ]  # fmt: skip
    elif op in ("Conv_1", "Conv_2"):
        keys = [OpKey("pointwise", shape, out, activation="hardswish")]
    elif op == "Logits":
        keys = [OpKey("linear", (shape[-1],), out)]
    else:
        keys = _mobile_block(record, shape, out)
    columns = ("op", "mid_channels", "kernel", "stride", "idskip", "se", "hswish")
    channels = f"{shape[-1]}-{out[-1]}"
    group = " ".join([channels, *(record[name] for name in columns)])
    name = f"{record['resolution']} {group}"
    return Row(
        Unit(name, tuple(keys)), float(record[column]) * 1e6, group, int(record["resolution"]), op
    )  # fmt: skip


def _mobile_block(
    record: dict[str, str], shape: tuple[int, ...], out: tuple[int, ...]
) -> list[OpKey]:
    wide, k, stride = (int(record[name]) for name in ("mid_channels", "kernel", "stride"))
    act = "hardswish" if record["hswish"] == "1" else "relu"
    middle = (*out[:2], wide)
    keys = []
    if wide != shape[-1]:
        keys.append(OpKey("pointwise", shape, (*shape[:2], wide), activation=act))
    keys.append(
        OpKey("depthwise", (*shape[:2], wide), middle, kernel=(k, k), strides=(stride, stride),
              pads=(k // 2,) * 4, groups=wide, activation=act)  # type: ignore[arg-type]
    )  # fmt: skip
    if record["se"] == "1":
        squeezed = _rounded(wide / 4)
        keys += [
            OpKey("global_avgpool", middle, (1, 1, wide)),
            OpKey("pointwise", (1, 1, wide), (1, 1, squeezed), activation="relu"),
            OpKey("pointwise", (1, 1, squeezed), (1, 1, wide), activation="hardsigmoid"),
            OpKey("scale", middle, middle, inputs=2),
        ]
    keys.append(OpKey("pointwise", middle, out, residual=record["idskip"] == "1"))
    return keys


def _rounded(channels: float, step: int = 8) -> int:
    """Multiples of eight that lose at most a tenth, as MobileNets round widths."""
    whole = max(step, int(channels + step / 2) // step * step)
    return whole + step if whole < 0.9 * channels else whole
