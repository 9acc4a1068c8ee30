"""Weights in and out: npz files without pickle, and the once-for-all authors' state dicts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from edgeopt.core.files import write_atomic
from edgeopt.ofa.supernet import Supernet

FORMAT = "edgeopt-supernet/1"
HEADER = "__header__"


def save_weights(net: Supernet, path: Path) -> None:
    """Write a supernet's weights as npz (arrays by state-dict name, a JSON header)."""
    arrays = {
        name: tensor.detach().contiguous().numpy()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    header = json.dumps({"format": FORMAT, "space": net.space.name})
    stream = io.BytesIO()
    np.savez_compressed(stream, **{HEADER: np.array(header)}, **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())
