"""Loading an ONNX file that nobody vouches for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.core.errors import InputError
from edgeopt.core.files import read_bytes

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 512 << 20


def load_model(
    path: Path,
    *,
    max_bytes: int = MAX_BYTES,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    isolated: bool = True,
    timeout_s: float = 120.0,
) -> onnx.ModelProto:
    """Read, check and complete a model: static shapes, weights inside, nodes in order.

    The file is parsed, checked and run through shape inference in a child process with bounded
    memory and time, so that a file made to crash a parser fails like any other bad input.

    Args:
        path: the ``.onnx`` file; external data is read from its folder only.
        max_bytes: the most that file, or its external data, may have.
        input_shapes: shapes for inputs, by name; overrides what the model says. A free first
            dimension needs none, it is a batch and becomes 1.
        isolated: False checks in this process: for files this program wrote itself.
        timeout_s: how long the child may take.

    Raises:
        InputError: with what is wrong, where, and what to do.
    """
    data = read_bytes(path, max_bytes=max_bytes, noun="ONNX model")
    folder, shapes = path.resolve().parent, dict(input_shapes or {})
    try:
        if not isolated:
            from edgeopt.graph.check import checked

            return checked(data, folder, max_bytes, shapes)
        from edgeopt.graph.isolate import checked_isolated

        return checked_isolated(data, folder, max_bytes, shapes, timeout_s=timeout_s)
    except InputError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise InputError(error.what, where=where, hint=error.hint) from error


def parse_input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name=1x3x224x224``.

    Raises:
        InputError: it has another form.
    """
    name, equals, numbers = text.rpartition("=")
    parts = numbers.split("x")
    good = all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
    if not (equals and name and good) or any(int(part) < 1 for part in parts):
        raise InputError(
            f"{text[:200]!r} is not an input shape",
            where="--input-shape",
            hint="write the input's name and its dimensions: image=1x3x224x224",
        )
    return name, tuple(int(part) for part in parts)


def parse_input_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read several of them.

    Raises:
        InputError: one has another form, or an input is named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, shape = parse_input_shape(text)
        if name in shapes:
            raise InputError(
                f"input {name!r} is given twice", where="--input-shape", hint="keep one of them"
            )
        shapes[name] = shape
    return shapes


def parse_model(data: bytes) -> onnx.ModelProto:
    """A model that this program serialised itself; nothing is checked."""
    import onnx

    return onnx.load_model_from_string(data)
