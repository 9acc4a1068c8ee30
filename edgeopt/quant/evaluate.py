"""Accuracy of integer networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network
from edgeopt.quant.simulate import simulate


def evaluate_int8(
    network: Network,
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.integer[Any]],
    *,
    channels_first: bool = False,
    batch: int = 64,
) -> float:
    """Top-1 accuracy in percent, computed exactly as on a board.

    Args:
        network: an imported quantized network (a float one works as well).
        images: [N,H,W,C] as the network's input is stored.
        labels: class indices [N].
        channels_first: images are [N,C,H,W].
        batch: images at a time.

    Raises:
        InputError: labels and images do not match, or a label is not a class.
    """
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images but {len(labels)} labels")
    scores = simulate(network, images, channels_first=channels_first, batch=batch)
    scores = scores.reshape(len(scores), -1)
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise InputError(
            f"labels reach from {labels.min()} to {labels.max()}, "
            f"but the network has {scores.shape[1]} classes",
            where=network.name,
        )
    return 100.0 * float(np.mean(scores.argmax(axis=1) == labels))
