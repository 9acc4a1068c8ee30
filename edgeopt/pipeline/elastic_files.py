"""Scales and steps of an elastic supernet as a file: npz without pickle, checked before use."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.core.network import Array
from edgeopt.core.precision import DEPLOYED, LayerPrecision
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.checkpoint import HEADER, load_weights, save_weights
from edgeopt.ofa.supernet import Supernet
from edgeopt.pipeline.elastic import ElasticNet

QUANTIZERS = "quantizers.npz"
FORMAT = "edgeopt-quantizers/2"  # 1: two bits were -1, 0 and 1
MAX_BYTES = 64 << 20

_MOST_ZERO = 128.0  # of a zero point
_LIMIT = 60.0  # of a logarithm: float32 holds exp of it, and of the sum of two


def save_elastic(net: ElasticNet, weights: Path, quantizers: Path) -> None:
    """Write the supernet's weights and its quantizers, each to a file.

    Raises:
        InputError: a file cannot be written.
    """
    save_weights(net.net, weights)
    arrays = {name: t.detach().numpy() for name, t in net.quantizers.state_dict().items()}
    header = json.dumps({"format": FORMAT, "space": net.net.space.name, **_described(net.form)})
    stream = io.BytesIO()
    named = {name.replace("/", "-"): array for name, array in arrays.items()}
    np.savez_compressed(stream, **{HEADER: np.array(header)}, **named)  # type: ignore[arg-type]
    write_atomic(quantizers, stream.getvalue())


def load_elastic(
    space: SearchSpace,
    weights: Path,
    quantizers: Path | None,
    form: LayerPrecision = DEPLOYED,
) -> ElasticNet:
    """Read both, in eval mode; where there is no file, quantizers of a form are fitted to weights.

    Raises:
        InputError: a file is missing, damaged, of another space, or has wrong arrays or values.
    """
    supernet = load_weights(space, weights)
    if quantizers is None:
        net = ElasticNet(supernet, form).eval()
        net.fit()
        return net
    where = str(quantizers)
    arrays = _arrays(quantizers, supernet)
    header = _header(arrays.pop(HEADER, None), where)
    net = ElasticNet(supernet, _form(header, where)).eval()
    if header.get("space") != space.name:
        raise InputError(
            f"holds quantizers of space {header.get('space')!r}, not {space.name!r}", where=where
        )
    expected = net.quantizers.state_dict()
    given = {name.replace("-", "/"): array for name, array in arrays.items()}
    odd = sorted(set(expected) ^ set(given))
    if odd:
        raise InputError(
            f"does not fit the space {space.name}: {len(odd)} arrays missing or unexpected, "
            f"first {odd[0]!r}", where=where,
        )  # fmt: skip
    for name, tensor in expected.items():
        array = given[name]
        if array.dtype.kind != "f" or array.shape != tuple(tensor.shape):
            raise InputError(
                f"{name} is {array.dtype} {list(array.shape)}, "
                f"not floating point {list(tensor.shape)}", where=where,
            )  # fmt: skip
        most = _MOST_ZERO if ".zero" in name else _LIMIT
        if not (np.isfinite(array).all() and np.abs(array).max(initial=0.0) <= most):
            raise InputError(f"{name} holds values that no scale has", where=where)
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)))
    return net


def _arrays(path: Path, net: Supernet) -> dict[str, Array]:
    data = read_bytes(path, max_bytes=MAX_BYTES, noun="quantizers file")
    allowed = 8 * sum(4 * t.numel() for t in net.state_dict().values()) + (1 << 20)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = sum(info.file_size for info in archive.infolist())
        if stored > allowed:
            raise InputError(
                f"unpacks to {stored} bytes, more than the {allowed} of {net.space.name}",
                where=str(path),
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError) as e:
        raise InputError(
            f"not a readable quantizers file: {e}", where=str(path),
            hint="they are .npz files written by edgeopt train --quantize",
        ) from e  # fmt: skip


def _header(value: Array | None, where: str) -> dict[str, object]:
    try:
        header = json.loads(str(value))
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(
            f"the header does not say {FORMAT}", where=where,
            hint="was it written by another version of edgeopt? `edgeopt train --quantize --from` "
            "weights.npz fits new ones",
        )  # fmt: skip
    return header


def _described(form: LayerPrecision) -> dict[str, object]:
    """What the header says of quantizers that are not as kernels have them."""
    found = {"granularity": form.granularity, "group": form.group, "symmetric": form.symmetric}
    return {} if form == DEPLOYED else {"form": found}


def _form(header: dict[str, object], where: str) -> LayerPrecision:
    try:
        return msgspec.convert(header.get("form", {}), LayerPrecision)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"states a form that is none: {error}", where=where) from error
