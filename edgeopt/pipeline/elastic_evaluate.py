"""Test accuracies of subnets with quantized weights: many of them fast, few of them exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from edgeopt.core.precision import LayerPrecision
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.graph.build import build_onnx
from edgeopt.ofa.data import ImageSet, normalize
from edgeopt.ofa.evaluate import count_right, fold_batch_norm
from edgeopt.ofa.evaluations import OnPair, Pair, evaluate_pairs, identify
from edgeopt.ofa.export import to_network
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation
from edgeopt.ofa.supernet import Supernet
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model

U8 = npt.NDArray[np.uint8]


def evaluate_plans(
    net: ElasticNet,
    pairs: Sequence[Pair],
    calibration: U8,
    test: ImageSet,
    *,
    journal: Path | None = None,
    workers: int = 2,
    on_result: OnPair | None = None,
) -> list[PlanEvaluation]:
    """Classify the test images with every subnet and plan: quantized weights, float activations.

    Args:
        net: the elastic supernet.
        pairs: subnets and the widths of their weights, fp32 without a plan.
        calibration: uint8 [N,H,W,C] images that batch-norm statistics come from.
        test: images and labels, of the space's resolution.
        journal: file that results are appended to, and taken from if they are there already.
        workers: processes, of one thread each.
        on_result: told after every pair that was run.

    Raises:
        InputError: a subnet is not in the space, or the journal is of other weights or images.
    """
    space = net.net.space
    for config, _ in pairs:
        space.validate(config)
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    identity = identify(space, state, calibration, test)
    return evaluate_pairs(
        _Job(space, net.form, state, calibration, test), pairs, len(test), identity,
        journal=journal, workers=workers, on_result=on_result,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    space: SearchSpace
    form: LayerPrecision
    state: Mapping[str, npt.NDArray[Any]]
    calibration: U8
    test: ImageSet

    def start(self) -> Callable[[SubnetConfig, BlockPlan | None], int]:
        net = ElasticNet(Supernet(self.space), self.form).eval()
        net.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in self.state.items()})
        calibration = normalize(self.calibration, self.space)
        images = normalize(self.test.images, self.space)

        def run(config: SubnetConfig, plan: BlockPlan | None) -> int:
            static = fold_batch_norm(net.prepare(config, plan, calibration).net)
            return count_right(static, images, self.test.labels)

        return run


def count_exactly(
    net: ElasticNet, config: SubnetConfig, plan: BlockPlan, calibration: U8, test: ImageSet
) -> int:
    """Test images that a subnet classifies correctly when all it computes is integers, as deployed.

    The supernet's integers and calibrated activations of eight bits, run by onnxruntime. Weights of
    few bits are given to it as int8 ones, which changes nothing but their room.
    """
    space = net.net.space
    images = normalize(calibration, space)
    subnet = net.prepare(config, plan, images)
    model = onnx.load_model_from_string(build_onnx(to_network(subnet.net)))
    ranges = calibrate(model, images.contiguous().numpy())
    stored = {name: replace(found, bits=8) for name, found in subnet.stored().items()}
    quantized = quantize_model(model, ranges, stored=stored)
    session = session_of(quantized.SerializeToString())
    name = session.get_inputs()[0].name
    right = 0
    for index in range(len(test)):
        image = normalize(test.images[index : index + 1], space).contiguous().numpy()
        (scores,) = session.run(None, {name: image})
        right += int(np.argmax(scores)) == int(test.labels[index])
    return right


def session_of(model: bytes) -> Any:
    """An onnxruntime session of one thread whose sums are exact."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Without this, x86 processors that lack VNNI saturate the sums of integer kernels.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
