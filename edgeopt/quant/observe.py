"""Running the float network over calibration images and noting what every tensor holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError, ToolError
from edgeopt.graph import qdq_build
from edgeopt.graph.ir import Graph
from edgeopt.quant.ranges import Spread

Floats = npt.NDArray[np.float32]

BINS = 2048
#: Images whose tensors are gathered before they are counted: few calls, little memory.
_CHUNK = 16


@dataclass(slots=True)
class Observed:
    """Statistics of one tensor, being gathered."""

    low: float = np.inf
    high: float = -np.inf
    zeros: int = 0
    elements: int = 0
    total: npt.NDArray[np.float64] | None = None  # sums by channel (axis 1)
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def spread(self) -> Spread:
        """The finished histogram."""
        return Spread(self.low, self.high, self.counts, self.zeros)

    @property
    def mean(self) -> Floats:
        """Mean of each channel."""
        assert self.total is not None
        return (self.total * len(self.total) / self.elements).astype(np.float32)

    def measure(self, x: Floats) -> None:
        """First pass: range, zeros and means."""
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.zeros += x.size - int(np.count_nonzero(x))
        self.elements += x.size
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        total = x.sum(axis=axes, dtype=np.float64).reshape(-1)
        self.total = total if self.total is None else self.total + total

    def count(self, x: Floats) -> None:
        """Second pass: the histogram."""
        width = self.high - self.low
        scaled = (x.reshape(-1) - np.float32(self.low)) * np.float32(BINS / width if width else 0)
        bins = np.minimum(scaled.astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)


def check_images(images: object, shape: tuple[int, ...], where: str) -> Floats:
    """Calibration images as float32 [N, *shape[1:]].

    Raises:
        InputError: none, of another shape or type, or not finite.
    """
    expected = "x".join(str(d) for d in shape[1:])
    if not isinstance(images, np.ndarray):
        raise InputError(
            f"calibration images are {type(images).__name__}, not an array",
            where=where,
            hint=f"pass float32 [N, {expected.replace('x', ', ')}], preprocessed as in training",
        )
    if images.dtype.kind != "f":
        raise InputError(
            f"calibration images have type {images.dtype}, not float32",
            where=where,
            hint="preprocess them as in training (scale, subtract the mean)",
        )
    if images.shape[1:] != shape[1:]:
        got = "x".join(str(d) for d in images.shape)
        raise InputError(
            f"calibration images have shape {got}, not Nx{expected}",
            where=where,
            hint="the model's input layout is kept: channels come first for an exported network",
        )
    if len(images) == 0:
        raise InputError("there are no calibration images", where=where, hint="pass at least one")
    array = np.ascontiguousarray(images, np.float32)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            "calibration images hold NaN or infinite values",
            where=where,
            hint="check how they were decoded and normalised",
        )
    if low == high:
        raise InputError(
            f"every calibration value is {low:g}",
            where=where,
            hint="calibrate on images like those the network will see",
        )
    return array


def _runner(
    graph: Graph, names: tuple[str, ...], input_name: str, batch: int
) -> Callable[[Floats], list[Floats]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # the operators of one image are too small to share
    try:
        session = onnxruntime.InferenceSession(
            qdq_build.observed(graph, names), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise ToolError(
            f"onnxruntime cannot run the network: {str(error).splitlines()[0]}",
            where=graph.name,
            hint="check that the float model runs in onnxruntime",
        ) from error

    def run(images: Floats) -> list[Floats]:
        parts = [
            session.run(None, {input_name: images[start : start + batch]})
            for start in range(0, len(images), batch)
        ]
        return [np.concatenate(tensors) for tensors in zip(*parts, strict=True)]

    return run


def observe(graph: Graph, names: tuple[str, ...], images: object) -> Mapping[str, Observed]:
    """Statistics of the named tensors over all images, in two passes.

    Args:
        graph: the simplified float network.
        names: tensors to watch.
        images: float32 [N, …] in the layout of the model's one input.
    """
    if len(graph.inputs) != 1:
        raise InputError(
            f"the network has {len(graph.inputs)} inputs; calibration feeds one",
            where=graph.name,
            hint="calibrate a network with a single image input",
        )
    input_name = graph.inputs[0]
    shape = graph.shape(input_name)
    array = check_images(images, shape, graph.name)
    batch = shape[0]
    if len(array) % batch:
        raise InputError(
            f"{len(array)} images do not fill batches of {batch}",
            where=graph.name,
            hint="pass a multiple of the batch size, or export the model with batch 1",
        )
    run = _runner(graph, names, input_name, batch)

    def chunks() -> Iterator[tuple[str, Floats]]:
        step = max(_CHUNK // batch, 1) * batch
        for start in range(0, len(array), step):
            yield from zip(names, run(array[start : start + step]), strict=True)

    found = {name: Observed() for name in names}
    for name, tensor in chunks():
        found[name].measure(tensor)
        if not np.isfinite(found[name].low + found[name].high):
            raise InputError(
                "the tensor holds NaN or infinite values on the calibration images",
                where=name,
                hint="check that the float model gives finite outputs on them",
            )
    for name, tensor in chunks():
        found[name].count(tensor)
    return found
