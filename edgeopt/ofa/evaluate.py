"""Test accuracies of many subnets: recalibrated, folded, in worker processes, with a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.data import ImageSet, batches, normalize
from edgeopt.ofa.evaluations import evaluate_pairs, identify
from edgeopt.ofa.extract import StaticNet, extract
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation
from edgeopt.ofa.supernet import Supernet

U8 = npt.NDArray[np.uint8]

#: ``on_result(evaluation, done, planned)``, after every subnet.
OnResult = Callable[["Evaluation", int, int], None]

_BATCH = 100  # fastest on CPU caches of the usual size


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one subnet scored."""

    config: SubnetConfig
    right: int
    images: int

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0..1."""
        return self.right / self.images


def prepare(supernet: Supernet, config: SubnetConfig, calibration: torch.Tensor) -> StaticNet:
    """A subnet extracted, its statistics measured on ``calibration``, ready to run in eval mode."""
    static: StaticNet = extract(supernet, config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate_bn(static, calibration)
    return static


def fold_batch_norm(static: StaticNet) -> StaticNet:
    """Fold every batch norm into the convolution before it, in place."""
    for module in static.modules():
        if isinstance(module, nn.Sequential) and isinstance(
            bn := getattr(module, "bn", None), nn.BatchNorm2d
        ):
            module.conv = fuse_conv_bn_eval(module.conv, bn)  # type: ignore[type-var]
            module.bn = nn.Identity()
    return static


def count_right(net: nn.Module, images: torch.Tensor, labels: npt.NDArray[np.int64]) -> int:
    """How many normalized images [N,C,H,W] ``net`` classifies as labelled."""
    right = 0
    net.eval()
    with torch.inference_mode():
        for part in batches(len(labels), _BATCH):
            guess = net(images[part]).argmax(1).numpy()
            right += int((guess == labels[part]).sum())
    return right


def evaluate_subnets(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    calibration: U8,
    test: ImageSet,
    *,
    journal: Path | None = None,
    workers: int = 2,
    on_result: OnResult | None = None,
) -> list[Evaluation]:
    """Classify all test images with every subnet.

    Args:
        supernet: the weights.
        configs: the subnets; repeated ones are run once.
        calibration: uint8 [N,H,W,C] images that each subnet's batch-norm statistics come from.
        test: images and labels, of the space's resolution.
        journal: file that results are appended to, and taken from if they are there already.
        workers: processes, of one thread each.
        on_result: told after every subnet that was run.

    Returns:
        One evaluation per config, in their order.

    Raises:
        InputError: a config is not in the space, or the journal belongs to other weights or images.
    """
    for config in configs:
        supernet.space.validate(config)
    state = {name: value.numpy() for name, value in supernet.state_dict().items()}
    identity = identify(supernet.space, state, calibration, test)

    def tell(found: PlanEvaluation, done: int, planned: int) -> None:
        if on_result is not None:
            on_result(_plain(found), done, planned)

    found = evaluate_pairs(
        _Job(supernet.space, state, calibration, test), [(config, None) for config in configs],
        len(test), identity, journal=journal, workers=workers, on_result=tell,
    )  # fmt: skip
    return [_plain(result) for result in found]


def _plain(found: PlanEvaluation) -> Evaluation:
    return Evaluation(found.config, found.right, found.images)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    space: SearchSpace
    state: Mapping[str, npt.NDArray[np.generic]]
    calibration: U8
    test: ImageSet

    def start(self) -> Callable[[SubnetConfig, BlockPlan | None], int]:
        supernet = Supernet(self.space)
        supernet.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in self.state.items()})
        calibration = normalize(self.calibration, self.space)
        images = normalize(self.test.images, self.space)

        def run(config: SubnetConfig, _: BlockPlan | None) -> int:
            static = fold_batch_norm(prepare(supernet, config, calibration))
            return count_right(static, images, self.test.labels)

        return run
