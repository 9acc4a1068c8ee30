"""Weights in and out: npz files without pickle, and the once-for-all authors' state dicts.

Both are untrusted input: nothing is unpickled, sizes are checked before arrays are read, and
every name, shape and value is checked before the first one is used.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.core.network import Array
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.supernet import Supernet

FORMAT = "edgeopt-supernet/1"
HEADER = "__header__"
MAX_FILE_BYTES = 2 << 30

_COUNTER = "num_batches_tracked"
_LISTED = 6  # keys named in an error before "and N more"


def save_weights(net: Supernet, path: Path, *, half: bool = False) -> None:
    """Write a supernet's weights as npz: arrays by state-dict name, and a JSON header.

    Args:
        net: the supernet.
        path: the file to write.
        half: store float16, which halves the file; loading widens it again.

    Raises:
        InputError: the file cannot be written.
    """
    arrays: dict[str, Array] = {}
    for name, tensor in net.state_dict().items():
        if not name.endswith(_COUNTER):
            array = tensor.detach().contiguous().numpy()
            # variances can exceed the range of float16
            keep = not half or name.endswith(("running_var", "running_mean"))
            arrays[name] = array if keep else array.astype(np.float16)
    header = json.dumps({"format": FORMAT, "space": net.space.name})
    stream = io.BytesIO()
    np.savez_compressed(stream, **{HEADER: np.array(header)}, **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


def load_weights(space: SearchSpace, path: Path) -> Supernet:
    """Read what `save_weights` wrote, or an npz of the authors' arrays, in eval mode.

    Raises:
        InputError: missing, damaged, of another space, or with wrong, missing or surplus arrays.
    """
    where = str(path)
    data = read_bytes(path, max_bytes=MAX_FILE_BYTES, noun="weights file")
    with torch.device("meta"):
        expected = Supernet(space).state_dict()
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = sum(info.file_size for info in archive.infolist())
        allowed = 2 * sum(t.numel() * 8 + 4096 for t in expected.values())
        if stored > allowed:
            raise InputError(
                f"unpacks to {stored} bytes, more than the {allowed} of {space.name}", where=where
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as archive_arrays:
            for name in archive_arrays.files:
                arrays[name] = archive_arrays[name]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError) as e:
        raise InputError(
            f"not a readable weights file: {e}", where=where,
            hint="weights are .npz files written by edgeopt train",
        ) from e  # fmt: skip
    header = arrays.pop(HEADER, None)
    if header is not None:
        _check_header(str(header), space, where)
    return load_ofa_state_dict(space, arrays, where=where)


def _check_header(text: str, space: SearchSpace, where: str) -> None:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise InputError("the header is not JSON", where=where) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(
            f"the header does not say {FORMAT}", where=where,
            hint="was it written by another version of edgeopt?",
        )  # fmt: skip
    if header.get("space") != space.name:
        raise InputError(
            f"holds weights of space {header.get('space')!r}, not {space.name!r}", where=where
        )


def load_torch_checkpoint(space: SearchSpace, path: Path) -> Supernet:
    """Read one of the authors' ``.pth`` files (a state dict, or a dict holding one).

    Nothing but tensors and plain containers is unpickled.

    Raises:
        InputError: missing, damaged, with other objects, or not of this space.
    """
    data = read_bytes(path, max_bytes=MAX_FILE_BYTES, noun="checkpoint")
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "damaged"
        raise InputError(
            f"not a checkpoint of tensors only: {reason}", where=str(path),
            hint="save the model's state_dict() with torch.save",
        ) from error  # fmt: skip
    for key in ("state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping):
        raise InputError(
            f"holds a {type(value).__name__}, not a state dict", where=str(path),
            hint="save the model's state_dict() with torch.save",
        )  # fmt: skip
    return load_ofa_state_dict(space, value, where=str(path))


def load_ofa_state_dict(
    space: SearchSpace, mapping: Mapping[str, object], *, where: str = "checkpoint"
) -> Supernet:
    """A supernet, in eval mode, with weights given by name.

    Args:
        space: the space the weights belong to.
        mapping: tensors or arrays under the authors' names; old names (``module.`` in front,
            ``.mobile_inverted_conv.`` for ``.conv.``) and float16 are accepted.
        where: how errors name the source.

    Raises:
        InputError: listing keys that are missing, unexpected or of the wrong shape, or holding
            values that are not finite.
    """
    with torch.device("meta"):  # every value is about to be replaced: draw no random ones
        net = Supernet(space)
    net.to_empty(device="cpu")
    state = net.state_dict()
    expected = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    for name in state.keys() - expected.keys():
        state[name].zero_()
    given: dict[str, Tensor] = {}
    for key, value in mapping.items():
        name = _modern(str(key))
        if not name.endswith(_COUNTER):
            given[name] = _tensor(value, name, where)
    _check_keys(expected, given, space, where)
    for name, tensor in given.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{name} holds values that are not finite", where=where,
                hint="the training diverged or the file is damaged",
            )  # fmt: skip
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise InputError(f"{name} holds negative variances", where=where)
        expected[name].copy_(tensor)
    return net.eval()


def _modern(key: str) -> str:
    key = key.removeprefix("module.")
    return key.replace(".mobile_inverted_conv.", ".conv.")


def _tensor(value: object, name: str, where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            raise InputError(f"{name} is {value.dtype}, not floating point", where=where)
        return torch.from_numpy(np.ascontiguousarray(value, np.float32))
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().float().cpu()
    kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
    raise InputError(f"{name} is {kind}, not a floating-point tensor", where=where)


def _check_keys(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], space: SearchSpace, where: str
) -> None:
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshapen = [
        f"{name} {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if not (missing or unexpected or misshapen):
        return
    found = []
    for label, names in (
        ("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            found.append(f"{len(names)} {label}: {', '.join(names[:_LISTED])}{more}")
    if unexpected and missing:
        hint = f"{unexpected[0]}: {suggest(unexpected[0], missing, noun='key')}"[:400]
    elif misshapen:
        hint = "is it of another width multiplier, number of classes or kernel choices?"
    else:
        hint = "is it a checkpoint of this space?"
    raise InputError(
        f"does not fit the space {space.name} ({len(expected)} tensors): " + "; ".join(found),
        where=where, hint=hint,
    )  # fmt: skip
