"""Everything done to the bytes of a model before it is trusted; runs in the child process."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgeopt.core.errors import InputError
from edgeopt.graph import validate
from edgeopt.graph.external import inline_external_data
from edgeopt.graph.sizes import check_dims

Shape = tuple[int, ...]


def checked(
    data: bytes, folder: Path, max_bytes: int, input_shapes: Mapping[str, Shape]
) -> onnx.ModelProto:
    """Parse, check, fix shapes and infer the rest.

    Raises:
        InputError: what is wrong, and where.
    """
    model = parse(data)
    _only_shallow(model)
    inline_external_data(model, folder, max_bytes)
    validate.validate(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _not_valid(error) from error
    strip(model)
    fix_inputs(model, input_shapes)
    return infer(model)


def parse(data: bytes) -> onnx.ModelProto:
    """Read a protobuf.

    Raises:
        InputError: it is not one.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not data:
        raise InputError("the file is empty", hint="export the model again")
    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError, ValueError) as error:
        raise InputError(
            "not an ONNX model: it is truncated, or of another format",
            hint="download or export it again; TensorFlow Lite and PyTorch files need converting",
        ) from error


def _only_shallow(model: onnx.ModelProto) -> None:
    """Graphs inside nodes are control flow, which is refused before anything walks into them."""
    for index, node in enumerate(model.graph.node):
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise InputError(
                    f"control flow ({node.op_type[:80]}) is not supported",
                    where=validate.node_where(node, index),
                    hint="export the model with fixed shapes so that branches and loops disappear",
                )


def strip(model: onnx.ModelProto) -> None:
    """Remove what is not needed, and the shapes that inference is to find by itself."""
    graph = model.graph
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    del model.training_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def fix_inputs(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Give every input a static shape of batch 1.

    Raises:
        InputError: unknown names, ranks that differ, dimensions that nobody fixed.
    """
    constants = {item.name for item in model.graph.initializer}
    inputs = {item.name: item for item in model.graph.input if item.name not in constants}
    for name in shapes:
        if name not in inputs:
            near = difflib.get_close_matches(name, inputs, n=1)
            known = ", ".join(sorted(inputs))[:200]
            raise InputError(
                f"the model has no input {name!r}",
                where="--input-shape",
                hint=f"did you mean {near[0]!r}?" if near else f"its inputs are {known}",
            )
    for name, info in inputs.items():
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            if name not in shapes:
                raise InputError(
                    "has no shape at all", where=f"input {name[:80]!r}",
                    hint=f"give one: --input-shape {name}=1x3x224x224",
                )  # fmt: skip
            tensor.shape.SetInParent()
            for _ in shapes[name]:
                tensor.shape.dim.add()
        _fix(name, tensor.shape, shapes.get(name))
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        check_dims([d.dim_value for d in tensor.shape.dim], size, f"input {name[:80]!r}")


def _fix(name: str, shape: onnx.TensorShapeProto, wanted: Shape | None) -> None:
    where = f"input {name[:80]!r}"
    dims = shape.dim
    known = [int(d.dim_value) if d.HasField("dim_value") else None for d in dims]
    if wanted is not None:
        if len(wanted) != len(dims):
            raise InputError(
                f"has {len(dims)} dimensions, the shape given {len(wanted)}",
                where=where,
                hint=f"give {len(dims)} numbers: --input-shape {_example(name, known)}",
            )
        known = list(wanted)
    elif len(known) > 1 and known[0] is None:
        known[0] = 1  # a free batch is 1
    unknown = [axis for axis, dim in enumerate(known) if dim is None]
    if unknown:
        names = ", ".join(f"{dims[axis].dim_param[:40] or '?'!r} (axis {axis})" for axis in unknown)
        raise InputError(
            f"dynamic dimensions: {names}",
            where=where,
            hint=f"fix them: --input-shape {_example(name, known)}",
        )
    if any(d is not None and d < 1 for d in known):
        raise InputError(f"shape {known} is not positive", where=where, hint="check the shape")
    if len(known) > 1 and known[0] != 1:
        raise InputError(
            f"batch {known[0]} is not supported, only 1",
            where=where,
            hint=f"export with batch 1, or try --input-shape {_example(name, [1, *known[1:]])}",
        )
    for dim, value in zip(dims, known, strict=True):
        assert value is not None
        dim.Clear()
        dim.dim_value = value


def _example(name: str, known: list[int | None]) -> str:
    filled = [d or (1 if axis == 0 else 224) for axis, d in enumerate(known)]
    return f"{name}={'x'.join(map(str, filled))}"


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run shape inference.

    Raises:
        InputError: shapes contradict each other, or a value has an absurd size.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise _not_valid(error) from error
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = info.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        try:
            size = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        except KeyError:
            continue
        check_dims(dims, size, f"tensor {info.name[:80]!r}")
    return inferred


def _not_valid(error: Exception) -> InputError:
    return InputError(
        f"not a valid network: {_first_line(error)}",
        where="onnx's checks",
        hint="the node named there does not fit its inputs: export the model again",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)[:300]
    return "".join(c if c.isprintable() else "?" for c in text)
