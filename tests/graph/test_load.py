"""Files that are broken, hostile, or ask for what is not supported: what the user reads."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.core.errors import InputError
from edgeopt.graph import isolate, load
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import load_model, parse_input_shape, parse_input_shapes

F = TensorProto.FLOAT


def value(name: str, shape: object, element: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def weights(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def model(
    nodes: list[onnx.NodeProto], shape: object = (1, 3, 8, 8), constants: object = (),
    opset: int = 17, out: object = None,
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value("x", shape)], [value("y", out or ["a", "b", "c", "d"])], list(constants)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str = "Relu", inputs: str = "x", outputs: str = "y", **attrs: object):
    return helper.make_node(op, inputs.split(), outputs.split(), name="the_node", **attrs)


def conv_model() -> onnx.ModelProto:
    return model([node("Conv", "x w")], constants=[weights("w", 4, 3, 3, 3)])


def refused(proto: onnx.ModelProto | bytes, folder: Path, **options: object) -> str:
    """The whole message; checked in this process, as the child would."""
    path = folder / "net.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(InputError) as caught:
        import_network(load_model(path, isolated=False, **options), isolated=False)
    text = str(caught.value)
    assert caught.value.hint, text
    assert caught.value.exit_code == 2
    return text


def test_a_sound_model_loads_in_a_child_process(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path)
    loaded = load_model(path)
    shape = loaded.graph.output[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 4, 6, 6]
    assert [op.kind for op in import_network(loaded).ops] == ["conv2d"]


def test_the_child_says_what_the_parent_would(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(InputError, match=r"net\.onnx: not an ONNX model: it is truncated"):
        load_model(path)


def test_a_crash_of_the_child_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "check_worker.py"
    monkeypatch.setattr(isolate, "__file__", str(tmp_path / "isolate.py"))
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path)
    worker.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(InputError, match=r"net\.onnx: reading it crashed \(status -11\)"):
        load_model(path)
    worker.write_text("raise MemoryError\n")
    with pytest.raises(InputError, match="reading it ran out of memory"):
        load_model(path)
    worker.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(InputError, match=r"checking it took longer than 0\.2 s"):
        load_model(path, timeout_s=0.2)


def test_processor_time_of_the_child_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "onnx.py").write_text("while True: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))  # this process has imported it before
    monkeypatch.setattr(isolate, "_PATIENCE", 10_000)  # no limit by the clock
    with pytest.raises(InputError, match=r"checking it took longer than 0\.1 s"):
        load_model(path, timeout_s=0.1)


def test_memory_of_the_child_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "_MEMORY_BYTES", 64 << 20)
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path)
    with pytest.raises(InputError, match=r"reading it (crashed|ran out of memory)"):
        load_model(path)


def test_missing_empty_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ONNX model"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="not a regular ONNX model"):
        load_model(tmp_path)
    assert "the file is empty" in refused(b"", tmp_path)
    assert "more than the 100 allowed" in refused(conv_model(), tmp_path, max_bytes=100)


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_truncated_files(tmp_path: Path, cut: int) -> None:
    whole = conv_model().SerializeToString()
    text = refused(whole[:-cut], tmp_path)
    assert "truncated" in text or "bytes of data" in text or "opset" in text


def test_deep_nesting(tmp_path: Path) -> None:
    inner = b""
    for _ in range(3000):  # a graph in an attribute in a node in a graph…
        for field in (6, 5, 1):
            size = len(inner)
            length = b""
            while size >= 128:
                length += bytes([size % 128 + 128])
                size //= 128
            inner = bytes([field << 3 | 2]) + length + bytes([size]) + inner
    assert "not an ONNX model" in refused(bytes([7 << 3 | 2]) + b"\x05" + inner, tmp_path)


def test_no_operators(tmp_path: Path) -> None:
    assert "has no operators" in refused(model([]), tmp_path)


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_out_of_range(tmp_path: Path, opset: int) -> None:
    text = refused(model([node()], opset=opset), tmp_path)
    assert f"opset_import: opset {opset} is not supported, only 7 to" in text
    assert "version_converter" in text


def test_versions_out_of_range(tmp_path: Path) -> None:
    proto = conv_model()
    proto.ir_version = 99
    assert "IR version 99 is not supported" in refused(proto, tmp_path)


def test_functions_are_refused(tmp_path: Path) -> None:
    proto = conv_model()
    proto.functions.append(
        helper.make_function("d", "f", ["a"], ["b"], [], [helper.make_opsetid("", 17)])
    )
    assert "function 'f': model-local functions are not supported" in refused(proto, tmp_path)


def test_dynamic_dimensions_are_named_and_can_be_fixed(tmp_path: Path) -> None:
    proto = model([node()], shape=["n", 3, "height", "width"])
    text = refused(proto, tmp_path)
    assert "input 'x': dynamic dimensions: 'height' (axis 2), 'width' (axis 3)" in text
    assert "--input-shape x=1x3x224x224" in text
    loaded = load_model(tmp_path / "net.onnx", isolated=False, input_shapes={"x": (1, 3, 20, 30)})
    assert import_network(loaded).tensors["x"].shape == (1, 20, 30, 3)
    assert "has 4 dimensions, the shape given 3" in refused(
        proto, tmp_path, input_shapes={"x": (1, 3, 20)}
    )
    text = refused(proto, tmp_path, input_shapes={"xx": (1, 3, 20, 20)})
    assert "the model has no input 'xx'" in text and "did you mean 'x'?" in text
    assert "shape [1, 3, 0, 20] is not positive" in refused(
        proto, tmp_path, input_shapes={"x": (1, 3, 0, 20)}
    )


def test_a_free_batch_is_one_and_another_is_refused(tmp_path: Path) -> None:
    onnx.save(model([node()], shape=["batch", 3, 4, 4]), tmp_path / "free.onnx")
    loaded = load_model(tmp_path / "free.onnx", isolated=False)
    assert import_network(loaded).tensors["x"].shape == (1, 4, 4, 3)
    text = refused(model([node()], shape=[8, 3, 4, 4]), tmp_path)
    assert "input 'x': batch 8 is not supported, only 1" in text
    assert "--input-shape x=1x3x4x4" in text


def test_an_input_without_a_shape(tmp_path: Path) -> None:
    proto = model([node()])
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    text = refused(proto, tmp_path)
    assert "input 'x': has no shape at all" in text or "shape" in text


@pytest.mark.parametrize(
    ("op", "hint"), [("Reluu", "did you mean Relu"), ("NonMaxSuppression", "cut it off")]
)
def test_unsupported_operators_are_named_with_their_node(
    tmp_path: Path, op: str, hint: str
) -> None:
    text = refused(model([node(op)]), tmp_path)
    assert f"node 'the_node' ({op}): operator {op} is not supported" in text and hint in text


def test_custom_domains(tmp_path: Path) -> None:
    proto = model([node("Relu", domain="com.microsoft")])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    text = refused(proto, tmp_path)
    assert "node 'the_node' (com.microsoft.Relu)" in text
    assert "operators of domain 'com.microsoft' are not supported" in text


def test_operators_of_another_opset(tmp_path: Path) -> None:
    text = refused(model([node("HardSwish")], opset=10), tmp_path)
    assert "operator HardSwish is not part of opset 10" in text
    assert "Upsample is not part of opset 13" in refused(
        model([node("Upsample", "x x")], opset=13), tmp_path
    )


def test_control_flow_and_sequences(tmp_path: Path) -> None:
    branch = helper.make_graph([node("Relu", "x", "z")], "b", [], [value("z", None)])
    proto = model([node("If", "x", "y", then_branch=branch, else_branch=branch)])
    assert "control flow (If) is not supported" in refused(proto, tmp_path)
    text = refused(model([node("SequenceConstruct")]), tmp_path)
    assert "operator SequenceConstruct is not supported" in text
    proto = model([node()])
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = F
    assert "tensor 'x': is a sequence, not a tensor" in refused(proto, tmp_path)


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.STRING])
def test_types_that_kernels_do_not_have(tmp_path: Path, element: int) -> None:
    proto = model([node()])
    proto.graph.input[0].type.tensor_type.elem_type = element
    text = refused(proto, tmp_path)
    assert f"values of type {TensorProto.DataType.Name(element)} are not supported" in text


def test_wiring(tmp_path: Path) -> None:
    text = refused(model([node("Conv", "x w")]), tmp_path)
    assert "reads 'w', which is neither written by a node, nor an input" in text
    twice = [node("Relu", "x", "y"), node("Abs", "x", "y")]
    assert "value 'y' is written twice" in refused(model(twice), tmp_path)
    cycle = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    assert "node 'the_node' (Add): is part of a cycle" in refused(model(cycle), tmp_path)
    proto = model([node("Relu", "x", "z")])
    assert "output 'y': is never written" in refused(proto, tmp_path)
    proto = conv_model()
    proto.graph.initializer.append(weights("w", 1))
    assert "initializer name 'w' is used twice" in refused(proto, tmp_path)
    proto = model([node("Relu", "w")], constants=[weights("w", 1, 2)])
    del proto.graph.input[:]
    assert "has no input" in refused(proto, tmp_path)


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    proto = model([node("Abs", "z", "y"), node("Neg", "x", "z")])
    onnx.save(proto, tmp_path / "net.onnx")
    loaded = load_model(tmp_path / "net.onnx", isolated=False)
    assert [n.op_type for n in loaded.graph.node] == ["Neg", "Abs"]


def test_attributes_of_another_type_or_name(tmp_path: Path) -> None:
    good = {"constants": [weights("w", 4, 3, 3, 3)]}
    text = refused(model([node("Conv", "x w", strides=[1.5, 2.0])], **good), tmp_path)
    assert "attribute 'strides' is of type FLOATS, not INTS" in text
    text = refused(model([node("Conv", "x w", colour=1)], **good), tmp_path)
    assert "attribute 'colour' is not one of Conv" in text
    proto = model([node("Conv", "x w", group=1)], **good)
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    assert "attribute 'group' is given twice" in refused(proto, tmp_path)
    assert "attribute 'alpha' is nan" in refused(model([node("Elu", alpha=float("nan"))]), tmp_path)
    assert "attribute 'alpha' is inf" in refused(model([node("Elu", alpha=float("inf"))]), tmp_path)
    assert "has 3 inputs, Relu takes 1" in refused(model([node("Relu", "x x x")]), tmp_path)


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"strides": [0, 1]}, "attribute 'strides' has the value 0, it must be positive"),
        ({"dilations": [1, 0]}, "attribute 'dilations' has the value 0"),
        ({"group": 0}, "attribute 'group' has the value 0"),
        ({"group": 2}, "onnx's checks|2 groups and weights"),
        ({"pads": [0, 0, -3, 0]}, "attribute 'pads' has the value -3, it must not be negative"),
        ({"strides": [2**40, 1]}, "attribute 'strides' has the value 1099511627776"),
        ({"kernel_shape": [5, 5]}, "kernel_shape [5, 5] is not that of the weights"),
        ({"strides": [1]}, "onnx's checks|do not fit"),
    ],
)
def test_windows_that_divide_by_zero_or_overflow(
    tmp_path: Path, attrs: dict[str, object], text: str
) -> None:
    proto = model([node("Conv", "x w", **attrs)], constants=[weights("w", 4, 3, 3, 3)])
    message = refused(proto, tmp_path)
    assert any(part in message for part in text.split("|")), message


def _resized(dims: list[int], data: bytes = b"") -> onnx.ModelProto:
    proto = conv_model()
    tensor = proto.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend(dims)
    tensor.raw_data = data or tensor.raw_data
    return proto


def test_constants_that_do_not_fit_their_shape(tmp_path: Path) -> None:
    text = refused(_resized([4, 3, 3, 4]), tmp_path)
    assert "initializer 'w': has 432 bytes of data, its shape [4, 3, 3, 4] needs 576" in text
    assert "has a negative dimension" in refused(_resized([4, -3, 3, 3]), tmp_path)
    text = refused(_resized([2**62, 2**62, 4]), tmp_path)
    assert "more than the 1073741824 allowed" in text
    assert "has 9 dimensions" in refused(_resized([1] * 9), tmp_path)
    proto = conv_model()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1.0, 2.0])
    assert "has 2 values, its shape [4, 3, 3, 3] needs 108" in refused(proto, tmp_path)
    proto = conv_model()
    proto.graph.initializer[0].data_type = TensorProto.STRING
    assert "constants of type STRING are not supported" in refused(proto, tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    text = refused(_resized([4, 3, 3, 3], struct.pack("<108f", *[bad] * 108)), tmp_path)
    assert "contains NaN" in text or "a weight is NaN or infinite" in text
    assert "'w'" in text or "'the_node'" in text


def test_absurd_sizes_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 3, 2**20, 2**20], np.int64), "s")
    text = refused(model([node("Expand", "x s")], shape=(1, 3, 1, 1), constants=[shape]), tmp_path)
    assert "more than the 1073741824 allowed" in text
    assert "shape [1, 3, 1000000, 1000000] takes" in refused(
        model([node()], shape=(1, 3, 10**6, 10**6)), tmp_path
    )
    big = numpy_helper.from_array(np.array([1, 3, 2**20, 2**20], np.int64), "s")
    nodes = [node("ConstantOfShape", "s", "z"), node("Add", "x z")]
    proto = model(nodes, shape=(1, 3, 1, 1), constants=[big])
    assert "more than the 1073741824 allowed" in refused(proto, tmp_path)
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "zero")
    one = numpy_helper.from_array(np.array(1.0, np.float32), "one")
    nodes = [node("Range", "zero one zero", "z"), node("Add", "x z")]
    text = refused(model(nodes, constants=[zero, one]), tmp_path)
    assert "the step of a range must not be zero" in text or "onnx's checks" in text


def test_an_empty_intermediate_value(tmp_path: Path) -> None:
    parts = [
        numpy_helper.from_array(np.array([v], np.int64), n)
        for v, n in ((2, "s"), (2, "e"), (1, "a"))
    ]
    text = refused(model([node("Slice", "x s e a")], constants=parts), tmp_path)
    assert "which has no elements" in text and "(Slice)" in text


def test_shapes_that_contradict_each_other(tmp_path: Path) -> None:
    text = refused(model([node("Conv", "x w")], constants=[weights("w", 4, 5, 3, 3)]), tmp_path)
    assert "the_node" in text or "Conv" in text
    text = refused(model([node("Add", "x w")], constants=[weights("w", 7)]), tmp_path)
    assert "not a valid network" in text


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    proto = model([helper.make_node("Nope", ["x"], ["y"], name="\x1b[2J\x07evil")])
    text = refused(proto, tmp_path)
    assert "\x1b" not in text and "\\x1b[2J" in text
    proto = model([helper.make_node("Relu", ["x"], ["y"], name="n" * 5000)])
    text = refused(proto, tmp_path)
    assert "a name of 5000 characters" in text and len(text) < 500


def test_indices_out_of_range(tmp_path: Path) -> None:
    index = numpy_helper.from_array(np.array([7], np.int64), "i")
    text = refused(model([node("Gather", "x i", axis=1)], constants=[index]), tmp_path)
    assert "an index of Gather is out of range" in text or "onnx's checks" in text


# ---- external data -------------------------------------------------------------------------


def external(**entries: str) -> onnx.ModelProto:
    proto = conv_model()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "w.bin", **entries}
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    assert len(data) == 432
    return proto


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(432))
    (tmp_path / "secret.bin").write_bytes(bytes(432))
    return folder


def test_external_data_in_the_folder_is_read(beside: Path) -> None:
    onnx.save(external(), beside / "net.onnx")
    loaded = load_model(beside / "net.onnx")
    assert loaded.graph.initializer[0].raw_data == bytes(432)
    assert not loaded.graph.initializer[0].external_data


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..", "", "C:\\secret.bin", "a\\b"],
)
def test_external_data_outside_the_folder(beside: Path, location: str) -> None:
    text = refused(external(location=location), beside)
    assert "leaves the folder of the model" in text and "initializer 'w'" in text


def test_external_data_through_links(beside: Path) -> None:
    (beside / "link.bin").symlink_to(beside.parent / "secret.bin")
    assert "'link.bin' is a link" in refused(external(location="link.bin"), beside)
    (beside / "up").symlink_to(beside.parent)
    assert "is a link" in refused(external(location="up/secret.bin"), beside)
    os.link(beside.parent / "secret.bin", beside / "hard.bin")
    assert "is a hard link" in refused(external(location="hard.bin"), beside)
    os.mkfifo(beside / "pipe")
    assert "is a special file" in refused(external(location="pipe"), beside)
    assert "cannot read external data" in refused(external(location="none.bin"), beside)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"offset": "1"}, "has 432 bytes, 433 are needed"),
        ({"offset": "-1"}, "offset '-1' is not a whole number"),
        ({"offset": "9" * 30}, "is not a whole number"),
        ({"length": "431"}, "external data has 431 bytes, the shape needs 432"),
        ({"raw_data": "x"}, "external data key 'raw_data' is not allowed"),
    ],
)
def test_external_data_that_does_not_fit(beside: Path, entries: dict[str, str], text: str) -> None:
    assert text in refused(external(**entries), beside)


def test_external_data_counts_towards_the_limit(beside: Path) -> None:
    proto = external()
    size = len(proto.SerializeToString()) + 100
    assert "more than the" in refused(proto, beside, max_bytes=size)


# ---- options and damage --------------------------------------------------------------------


def test_input_shapes_are_parsed() -> None:
    assert parse_input_shape("a=b=1x3x8x8") == ("a=b", (1, 3, 8, 8))
    assert parse_input_shapes(["a=1x2", "b=3"]) == {"a": (1, 2), "b": (3,)}
    with pytest.raises(InputError, match="input 'a' is given twice"):
        parse_input_shapes(["a=1x2", "a=1x2"])


@pytest.mark.parametrize("text", ["x", "=1x2", "x=", "x=1x-2", "x=1x0", "x=1xa", "x=²"])
def test_bad_input_shapes(text: str) -> None:
    with pytest.raises(InputError, match="is not an input shape"):
        parse_input_shape(text)


def _damages() -> list[Callable[[bytearray, np.random.Generator], None]]:
    def flip(data: bytearray, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))

    def cut(data: bytearray, rng: np.random.Generator) -> None:
        start = int(rng.integers(len(data)))
        del data[start : start + int(rng.integers(1, 20))]

    def double(data: bytearray, rng: np.random.Generator) -> None:
        start = int(rng.integers(len(data)))
        data[start:start] = data[start : start + int(rng.integers(1, 40))]

    return [flip, cut, double]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_load_or_are_refused(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "a s s s s", "b"),
        node("HardSwish", "b", "c"),
        node("GlobalAveragePool", "c", "d"),
        node("Reshape", "d t", "e"),
        node("Gemm", "e v", "y", transB=1),
    ]
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "t")
    positive = numpy_helper.from_array(np.ones(4, np.float32), "s")
    constants = [weights("w", 4, 3, 3, 3), positive, shape, weights("v", 2, 4)]
    data = bytearray(model(nodes, constants=constants, out=["n", "k"]).SerializeToString())
    for damage in rng.choice(_damages(), 2):
        damage(data, rng)
    path = tmp_path / "net.onnx"
    path.write_bytes(bytes(data))
    try:
        import_network(load_model(path, isolated=False), isolated=False)
    except InputError as error:
        assert error.what and error.hint


def test_the_limit_is_stated() -> None:
    assert load.MAX_BYTES == 512 << 20
