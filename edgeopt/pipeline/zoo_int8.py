"""What quantizing to int8 costs in accuracy, measured with onnxruntime on all test images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.graph.build import build_onnx
from edgeopt.ofa.data import ImageSet, normalize
from edgeopt.ofa.evaluate import Evaluation, prepare
from edgeopt.ofa.export import to_network
from edgeopt.ofa.supernet import Supernet
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from edgeopt.zoo.card import Int8, Int8Row


def measure_int8(
    supernet: Supernet,
    subnets: Sequence[Evaluation],
    calibration: npt.NDArray[np.uint8],
    test: ImageSet,
    kept: Path,
    say: Callable[[str], None],
) -> Int8:
    """Quantize every subnet and count what it classifies correctly.

    Args:
        supernet: the weights.
        subnets: fp32 evaluations, calibrated on the same images.
        calibration: uint8 [N,H,W,C] images for batch norms and activation ranges.
        test: images and labels.
        kept: file that finished rows are kept in.
        say: told after every subnet.
    """
    rows: list[Int8Row] = []
    if kept.exists():
        data = read_bytes(kept, max_bytes=1 << 20, noun="rows")
        rows = msgspec.json.decode(data, type=list[Int8Row])
    real = normalize(calibration, supernet.space)
    for subnet in subnets:
        if any(row.subnet == str(subnet.config) for row in rows):
            continue
        static = prepare(supernet, subnet.config, real)
        model = onnx.load_model_from_string(build_onnx(to_network(static)))
        ranges = calibrate(model, real.contiguous().numpy())
        quantized = quantize_model(model, ranges)
        score = _accuracy(quantized.SerializeToString(), supernet, test)
        rows.append(Int8Row(subnet=str(subnet.config), fp32=subnet.accuracy, int8=score))
        write_atomic(kept, msgspec.json.encode(rows))
        say(f"int8: {len(rows)} of {len(subnets)} subnets, last {score:.2%} "
            f"against {subnet.accuracy:.2%} in fp32")  # fmt: skip
    wanted = {str(subnet.config) for subnet in subnets}
    final = tuple(row for row in rows if row.subnet in wanted)
    losses = [row.fp32 - row.int8 for row in final]
    return Int8(
        images=len(test), mean_loss=statistics.fmean(losses), worst_loss=max(losses), rows=final
    )


def _accuracy(model: bytes, supernet: Supernet, test: ImageSet) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Without this, x86 processors that lack VNNI saturate the sums of integer kernels.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = 0
    for index in range(len(test)):
        image = normalize(test.images[index : index + 1], supernet.space).contiguous().numpy()
        (scores,) = session.run(None, {name: image})
        right += int(np.argmax(scores)) == int(test.labels[index])
    return right / len(test)
