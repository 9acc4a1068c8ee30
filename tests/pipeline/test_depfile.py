"""What a compile depends on, in the syntax of make."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt.core.errors import InputError
from edgeopt.pipeline.compile import CompileRequest
from edgeopt.pipeline.depfile import sources, text, write


def model(folder: Path) -> Path:
    """A model whose weights lie in a file beside it."""
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, [1, 4])],
        [helper.make_tensor_value_info("y", 1, [1, 4])], [weights],
    )  # fmt: skip
    path = folder / "m.onnx"
    onnx.save_model(
        helper.make_model(graph), path, save_as_external_data=True, location="m.data",
        size_threshold=0,
    )  # fmt: skip
    return path


def test_the_model_its_weights_and_the_profile_are_named(tmp_path: Path) -> None:
    request = CompileRequest("rpi4", tmp_path / "out", model=model(tmp_path))
    names = [path.name for path in sources(request)]
    assert names[:2] == ["m.onnx", "m.data"]
    assert "profile.toml" in names
    assert all(path.is_absolute() and path.is_file() for path in sources(request))


def test_images_are_named_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"x")
    request = CompileRequest("local", tmp_path / "out", data=tmp_path / "images")
    assert [path.name for path in sources(request)] == ["images", "1.png"]


def test_make_reads_it(tmp_path: Path, needs_tool: Callable[[str], str]) -> None:
    """Spaces, dollars and hashes in names."""
    make = needs_tool("make")
    odd = tmp_path / "a b$c#d.onnx"
    odd.write_text("1")
    depfile = tmp_path / "m.d"
    depfile.write_text(text(Path("net"), [odd]))
    (tmp_path / "Makefile").write_text("all: net\ninclude m.d\nnet:\n\ttouch net\n")

    def touched() -> bool:
        done = subprocess.run([make], cwd=tmp_path, capture_output=True, text=True, check=True)
        return "touch" in done.stdout

    assert touched()
    assert not touched()
    newer = (tmp_path / "net").stat().st_mtime + 5
    import os

    os.utime(odd, (newer, newer))
    assert touched()


def test_names_that_no_depfile_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot hold this name"):
        text(Path("net"), [Path("a\nb")])
    request = CompileRequest("rpi4", tmp_path / "out")
    with pytest.raises(InputError, match=r"cannot write[\s\S]*choose a writable folder"):
        write(tmp_path / "none" / "m.d", request)
