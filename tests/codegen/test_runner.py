"""The generated C: what it says, that it compiles everywhere, and how it treats misuse."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import handmade
import jinja2
import numpy as np
import pytest

from edgeopt.codegen import carrays, emit, programs, runner, toolchain
from edgeopt.codegen.toolchain import STRICT_FLAGS, Compiler
from edgeopt.core.errors import ToolError
from edgeopt.core.kernels import KernelGraph, MemoryPlan
from edgeopt.core.network import Tensor

COMPILERS = ["gcc", "clang"]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def render(kernels: bytes = b"", name: str = "hand net", **changes: object) -> emit.Code:
    arguments: dict[str, object] = {
        "graph": handmade.graph(),
        "plan": handmade.plan(),
        "functions": handmade.FUNCTIONS,
        "constants": handmade.WEIGHTS,
        "kernel_files": {"kernels.o": kernels},
        "name": name,
        "origin": emit.Origin("edgeopt compile", {"edgeopt": "1"}, {"model": "ab" * 32}),
        "vectors": handmade.vectors(),
        "embed_vectors": 2,
        **changes,
    }
    return emit.render(**arguments)  # type: ignore[arg-type]


def compiled(folder: Path, name: str = "hand net", **changes: object) -> emit.Code:
    folder.mkdir(parents=True, exist_ok=True)
    return render(handmade.kernel_object(runner.kernel_prefix(name), folder), name, **changes)


def write(code: emit.Code, folder: Path) -> None:
    for path, content in code.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def gcc_like(needs_tool: Callable[[str], str], name: str) -> Compiler:
    needs_tool(name)
    return toolchain.find_for(toolchain.host_arch(), candidates=(name,))


@pytest.mark.parametrize("text_weight_bytes", [0, runner.TEXT_WEIGHT_BYTES])
@pytest.mark.parametrize("name", COMPILERS)
def test_programs_build_without_a_warning_and_pass(
    name: str, text_weight_bytes: int, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    code = compiled(tmp_path, text_weight_bytes=text_weight_bytes)
    assert ("src/hand_x20_net_weights.bin" in code.files) == (text_weight_bytes == 0)
    built = programs.build(
        code.files, code.model.id, gcc_like(needs_tool, name), tmp_path / "build",
        wanted=tuple(programs.PROGRAMS),
    )  # fmt: skip
    done = subprocess.run([built.paths["self_test"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "hand net: self-test passed\n")


@pytest.mark.parametrize("name", COMPILERS)
def test_programs_run_clean_under_sanitizers(
    name: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    compiler = dataclasses.replace(gcc_like(needs_tool, name), link_flags=SANITIZE)
    prefix = runner.kernel_prefix("hand net")
    kernels = handmade.kernel_object(prefix, tmp_path, name, *SANITIZE)
    code = render(kernels)
    built = programs.build(
        code.files, code.model.id, compiler, tmp_path / "build",
        wanted=("self_test", "infer", "bench_kernels"), flags=("-O1", *SANITIZE, *STRICT_FLAGS),
    )  # fmt: skip
    subprocess.run([built.paths["self_test"]], check=True, capture_output=True)
    vectors = handmade.vectors(7)
    done = subprocess.run(
        [built.paths["infer"]], input=vectors.input_bytes, check=True, capture_output=True
    )
    assert len(done.stdout) == len(vectors.output_bytes)
    subprocess.run(
        [built.paths["bench_kernels"], "--runs", "3", "--min-ms", "0"], check=True,
        capture_output=True,
    )  # fmt: skip


def test_a_wrong_output_fails_the_self_test(tmp_path: Path) -> None:
    vectors = handmade.vectors()
    for tensor in ("y", "q"):
        outputs = {name: array.copy() for name, array in vectors.outputs.items()}
        outputs[tensor][1, 0, 1] += 1
        changed = dataclasses.replace(vectors, outputs=outputs)
        code = compiled(tmp_path / tensor, vectors=changed)
        compiler = toolchain.find_for(toolchain.host_arch())
        built = programs.build(
            code.files, code.model.id, compiler, tmp_path / tensor, wanted=("self_test",)
        )
        done = subprocess.run([built.paths["self_test"]], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stdout == "hand net: the outputs differ from the reference\n"


def test_infer_reads_sets_back_to_back_and_refuses_a_torn_one(tmp_path: Path) -> None:
    code = compiled(tmp_path)
    compiler = toolchain.find_for(toolchain.host_arch())
    built = programs.build(code.files, code.model.id, compiler, tmp_path, wanted=("infer",))
    vectors = handmade.vectors(5, seed=9)
    done = subprocess.run(
        [built.paths["infer"]], input=vectors.input_bytes, capture_output=True, check=True
    )
    expected = np.frombuffer(vectors.output_bytes, np.uint8).reshape(5, -1)
    got = np.frombuffer(done.stdout, np.uint8).reshape(5, -1)
    np.testing.assert_array_equal(got[:, 12:], expected[:, 12:])  # the int8 output
    torn = subprocess.run(
        [built.paths["infer"]], input=vectors.input_bytes[:-1], capture_output=True, check=False
    )
    assert torn.returncode == 2
    assert b"ends in the middle of tensor k" in torn.stderr


@pytest.mark.parametrize("name", COMPILERS)
def test_library_objects_need_nothing_and_own_no_writable_data(
    name: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("nm")
    compiler = gcc_like(needs_tool, name)
    code = compiled(tmp_path)
    write(code, tmp_path)
    net = code.model.id
    for path in code.library_sources:
        target = tmp_path / path
        if path.endswith(".c"):
            target = tmp_path / (path.replace("/", "_") + ".o")
            toolchain.compile_object(
                compiler, tmp_path / path, target, includes=(tmp_path / "include",),
                flags=("-O2", "-fno-stack-protector", *STRICT_FLAGS), work=tmp_path,
            )  # fmt: skip
        listing = subprocess.run(
            ["nm", target], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        symbols = {line.split()[-1]: line.split()[-2] for line in listing}
        undefined = {s for s, kind in symbols.items() if kind in "Uu"}
        foreign = {s for s in undefined if not s.startswith(net)}
        assert foreign <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}, path
        assert not {s for s, kind in symbols.items() if kind in "dDbBCsS"}, path
        exported = {s for s, kind in symbols.items() if kind.isupper() and kind != "U"}
        assert all(s.startswith(f"{net}_") for s in exported), path


MISUSE = r"""
#include <stdio.h>
#include <string.h>
#include "net.h"
static NET_ALIGNED unsigned char arena[NET_SELF_TEST_ARENA_BYTES + 64];
static NET_ALIGNED float x[NET_INPUT_X_ELEMENTS + 4], y[NET_OUTPUT_Y_ELEMENTS];
static NET_ALIGNED int8_t k[NET_INPUT_K_ELEMENTS], q[NET_OUTPUT_Q_ELEMENTS];
static int failures;
static void expect(const char *what, net_status got, net_status wanted) {
    if (got != wanted) {
        printf("%s: %s instead of %s\n", what, net_status_text(got), net_status_text(wanted));
        ++failures;
    }
}
int main(void) {
    net_ctx ctx = {0};
    net_ctx wild;
    net_inputs in = {x, k};
    net_outputs out = {y, q};
    net_inputs bad_in = {NULL, k};
    net_outputs bad_out = {y, NULL};
    memset(&wild, 0xa5, sizeof wild);
    expect("run before init", net_run(&ctx, &in, &out), NET_ERROR_NOT_READY);
    expect("self-test before init", net_self_test(&ctx), NET_ERROR_NOT_READY);
    expect("run of garbage", net_run(&wild, &in, &out), NET_ERROR_NOT_READY);
    expect("self-test of garbage", net_self_test(&wild), NET_ERROR_NOT_READY);
    expect("init without context", net_init(NULL, arena, sizeof arena), NET_ERROR_NULL);
    expect("init without arena", net_init(&ctx, NULL, sizeof arena), NET_ERROR_NULL);
    expect("small arena", net_init(&ctx, arena, NET_ARENA_BYTES - 1), NET_ERROR_ARENA_SIZE);
    expect("odd arena", net_init(&ctx, arena + 1, NET_ARENA_BYTES), NET_ERROR_ALIGNMENT);
    expect("run after failed init", net_run(&ctx, &in, &out), NET_ERROR_NOT_READY);
    expect("init", net_init(&ctx, arena, NET_ARENA_BYTES), NET_OK);
    expect("self-test without room", net_self_test(&ctx), NET_ERROR_ARENA_SIZE);
    expect("init again", net_init(&ctx, arena, NET_SELF_TEST_ARENA_BYTES), NET_OK);
    expect("self-test", net_self_test(&ctx), NET_OK);
    expect("self-test without context", net_self_test(NULL), NET_ERROR_NULL);
    expect("run", net_run(&ctx, &in, &out), NET_OK);
    expect("no context", net_run(NULL, &in, &out), NET_ERROR_NULL);
    expect("no inputs", net_run(&ctx, NULL, &out), NET_ERROR_NULL);
    expect("no outputs", net_run(&ctx, &in, NULL), NET_ERROR_NULL);
    expect("null input", net_run(&ctx, &bad_in, &out), NET_ERROR_NULL);
    expect("null output", net_run(&ctx, &in, &bad_out), NET_ERROR_NULL);
    bad_in.x = x + 1;
    expect("odd input", net_run(&ctx, &bad_in, &out), NET_ERROR_ALIGNMENT);
    bad_out.q = q + 1;
    expect("odd output", net_run(&ctx, &in, &bad_out), NET_ERROR_ALIGNMENT);
    if (strcmp(net_status_text((net_status)99), "unknown status") != 0) {
        ++failures;
    }
    return failures;
}
"""


def build_by_hand(
    folder: Path,
    compiler: Compiler,
    main: str,
    codes: list[emit.Code],
    suffix: str = ".c",
    flags: tuple[str, ...] = ("-O1", *SANITIZE, *STRICT_FLAGS),
) -> Path:
    """A program of one main file and the library sources of some bundles."""
    main_file = folder / f"main{suffix}"
    main_file.write_text(main)
    sources, objects, includes = [], [], []
    for code in codes:
        bundle = folder / code.model.id
        write(code, bundle)
        includes += [bundle / "include"]
        for path in code.library_sources:
            (objects if path.endswith(".o") else sources).append(bundle / path)
    if suffix == ".c":
        sources.append(main_file)
    toolchain.compile_and_link(
        compiler, sources, folder / "program", includes=includes, objects=objects,
        flags=flags, work=folder,
    )  # fmt: skip
    return folder / "program"


def test_every_misuse_gives_its_status(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    compiler = dataclasses.replace(gcc_like(needs_tool, "gcc"), link_flags=SANITIZE)
    code = compiled(tmp_path, "net")
    done = subprocess.run(
        [build_by_hand(tmp_path, compiler, MISUSE, [code])], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


INIT = r"""
#include <stdio.h>
#include "net.h"
static NET_ALIGNED unsigned char arena[NET_ARENA_BYTES];
int main(void) {
    net_ctx ctx = {0};
    net_status status = net_init(&ctx, arena, sizeof arena);
    (void)puts(net_status_text(status));
    return (int)status;
}
"""


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_init_checks_the_constants_where_asked_to(
    tmp_path: Path, check: bool, damaged: bool
) -> None:
    """One flipped bit of any constant is found, but only when compiled to look."""
    code = compiled(tmp_path, "net")
    if damaged:
        path = "src/net_weights.c"
        last = re.findall(rb"0x[0-9a-f]+", code.files[path])[-1]
        flipped = hex(int(last, 16) ^ (1 << 30)).encode()
        text = flipped.join(code.files[path].rsplit(last, 1))
        code = dataclasses.replace(code, files={**code.files, path: text})
    flags = (*STRICT_FLAGS, *(("-DNET_CHECK_WEIGHTS=1",) if check else ()))
    compiler = toolchain.find_for(toolchain.host_arch())
    program = build_by_hand(tmp_path, compiler, INIT, [code], flags=flags)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    wrong = "the constants differ from those that were generated\n"
    assert done.stdout == (wrong if check and damaged else "success\n")


@pytest.mark.parametrize("text_weight_bytes", [0, runner.TEXT_WEIGHT_BYTES])
def test_macros_place_the_constants(
    text_weight_bytes: int, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    objdump = needs_tool("objdump")
    code = render(name="net", text_weight_bytes=text_weight_bytes, constant_alignment_bytes=4)
    write(code, tmp_path)
    compiler = toolchain.find_for(toolchain.host_arch())

    def sections(**defines: str) -> str:
        toolchain.compile_object(
            compiler, tmp_path / "src" / "net_weights.c", tmp_path / "w.o",
            includes=(tmp_path / "src",), defines=defines, flags=STRICT_FLAGS, work=tmp_path,
        )  # fmt: skip
        return subprocess.run(
            [objdump, "-h", tmp_path / "w.o"], capture_output=True, text=True, check=True
        ).stdout

    assert re.search(r"\.rodata .* 2\*\*[2-4]\n", sections())
    moved = sections(NET_WEIGHTS_SECTION='".ext_flash"', NET_WEIGHTS_ALIGNMENT="256")
    assert re.search(r"\.ext_flash .* 2\*\*8\n.*READONLY", moved)
    assert not re.search(r"\.rodata ", moved)
    with pytest.raises(ToolError, match="constants aligned to 4 bytes"):
        sections(NET_WEIGHTS_ALIGNMENT="2")


TWO = r"""
#include "one.h"
#include "two.h"
static ONE_ALIGNED unsigned char arena_1[ONE_SELF_TEST_ARENA_BYTES];
static ONE_ALIGNED unsigned char arena_1b[ONE_SELF_TEST_ARENA_BYTES];
static TWO_ALIGNED unsigned char arena_2[TWO_SELF_TEST_ARENA_BYTES];
int main(void) {
    one_ctx a = {0}, b = {0};
    two_ctx c = {0};
    if (one_init(&a, arena_1, sizeof arena_1) != ONE_OK) return 1;
    if (one_init(&b, arena_1b, sizeof arena_1b) != ONE_OK) return 2;
    if (two_init(&c, arena_2, sizeof arena_2) != TWO_OK) return 3;
    if (one_self_test(&b) != ONE_OK || two_self_test(&c) != TWO_OK) return 4;
    return one_self_test(&a) == ONE_OK ? 0 : 5;
}
"""


def test_two_networks_with_the_same_kernels_link_into_one_program(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    compiler = dataclasses.replace(gcc_like(needs_tool, "gcc"), link_flags=SANITIZE)
    codes = [compiled(tmp_path / f"k{name}", name) for name in ("one", "two")]
    program = build_by_hand(tmp_path, compiler, TWO, codes)
    assert subprocess.run([program], check=False).returncode == 0


CPP = """
#include "hand_x20_net.h"
#include <cstdio>
static HAND_X20_NET_ALIGNED unsigned char arena[HAND_X20_NET_SELF_TEST_ARENA_BYTES];
int main() {
    hand_x20_net_ctx ctx{};
    if (hand_x20_net_init(&ctx, arena, sizeof arena) != HAND_X20_NET_OK) return 1;
    return hand_x20_net_self_test(&ctx) == HAND_X20_NET_OK ? 0 : 2;
}
"""


def test_the_header_serves_cpp(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    cpp = needs_tool("g++")
    code = compiled(tmp_path)
    write(code, tmp_path)
    objects = []
    compiler = gcc_like(needs_tool, "gcc")
    for path in code.library_sources:
        objects.append(tmp_path / path)
        if path.endswith(".c"):
            objects[-1] = tmp_path / (path.replace("/", "_") + ".o")
            toolchain.compile_object(
                compiler, tmp_path / path, objects[-1], includes=(tmp_path / "include",),
                work=tmp_path,
            )  # fmt: skip
    (tmp_path / "main.cpp").write_text(CPP)
    subprocess.run(
        [cpp, "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror",
         "-Iinclude", "main.cpp", *map(str, objects), "-lm", "-o", "program"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    assert subprocess.run([tmp_path / "program"], check=False).returncode == 0


@pytest.mark.parametrize("binary", [False, True])
def test_constants_reach_the_kernels_bit_by_bit(tmp_path: Path, binary: bool) -> None:
    """NaN payloads, minus zero, infinities, denormals and every int8, through a C compiler."""
    rng = np.random.default_rng(5)
    odd = struct.pack("<6I", 0x7FC12345, 0xFF800001, 0x80000000, 0x7F800000, 1, 0x807FFFFF)
    arrays = {
        "f32": np.frombuffer(odd + rng.bytes(4 * 251), np.float32),
        "i8": np.frombuffer(rng.bytes(1021), np.int8),
        "u8": np.arange(255, dtype=np.uint8),
        "i16": np.frombuffer(rng.bytes(2 * 333), np.int16),
        "i32": np.array([-(2**31), 2**31 - 1, -1], np.int32),
        "i64": np.array([-(2**63), 2**63 - 1, -1], np.int64),
    }
    pool = carrays.Pool("w")
    symbols = {dtype: pool.add(array, dtype).symbol for dtype, array in arrays.items()}
    uses = {a.symbol: ["test"] for a in pool.arrays}
    views = tuple(runner.constant_views(pool, uses, as_text=not binary))
    model = dataclasses.replace(render().model, id="net", macro="NET", constants=views)
    template = "weights_binary.c.j2" if binary else "weights.c.j2"
    (tmp_path / "net_weights.h").write_bytes(emit.render_template("weights.h.j2", net=model))
    (tmp_path / "net_weights.c").write_bytes(emit.render_template(template, net=model, banner=()))
    (tmp_path / "net_weights.bin").write_bytes(runner.weights_file(pool))
    compiler = toolchain.find_for(toolchain.host_arch())
    library = tmp_path / "w.so"
    subprocess.run(
        [*compiler.argv, *STRICT_FLAGS, "-shared", "-fPIC", "net_weights.c", "-o", library],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    loaded = ctypes.CDLL(str(library))
    for dtype, array in arrays.items():
        address = ctypes.addressof(ctypes.c_char.in_dll(loaded, symbols[dtype]))
        assert address % 64 == 0
        assert ctypes.string_at(address, array.nbytes) == array.tobytes(), dtype


def test_equal_constants_are_stored_once() -> None:
    pool = carrays.Pool("w")
    first = pool.add(np.zeros(4, np.float32), "f32")
    assert pool.add(np.zeros((2, 2), np.float32), "f32") is first
    assert pool.add(np.zeros(4, np.int32), "i32") is not first  # read as another type
    assert pool.size_bytes == 32
    with pytest.raises(ValueError, match="without elements"):
        pool.add(np.zeros(0, np.float32), "f32")
    with pytest.raises(ValueError, match="no C type for arrays of float64"):
        pool.add(np.zeros(1), "f32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="array of int8 where f32 was declared"):
        pool.add(np.zeros(1, np.int8), "f32")
    mask = pool.add(np.array([True, False]), "u8")
    assert mask.data == b"\x01\x00"


def test_the_same_arguments_give_the_same_bytes_and_no_time() -> None:
    first, second = render(b"object"), render(b"object")
    assert first.files == second.files
    header = first.files["include/hand_x20_net.h"].decode()
    for line in ("command: edgeopt compile", "versions: edgeopt 1",
                 f"input model: sha256 {'ab' * 32}"):  # fmt: skip
        assert f" * {line}\n" in header
    text = b"".join(c for p, c in first.files.items() if not p.endswith(".o"))
    assert not re.search(rb"20[0-9][0-9]-[01][0-9]-|[0-9]{2}:[0-9]{2}:[0-9]{2}|/tmp/", text)


def test_status_texts_come_from_one_list() -> None:
    files = render().files
    header, source = files["include/hand_x20_net.h"].decode(), files["src/hand_x20_net.c"].decode()
    for value, (name, text) in enumerate(runner.STATUSES):
        assert f"HAND_X20_NET_{name} = {value}" in header
        assert f'case HAND_X20_NET_{name}:\n        return "{text}";' in source


def test_the_header_states_sizes_and_quantization() -> None:
    header = render().files["include/hand_x20_net.h"].decode()
    for line in (
        "#define HAND_X20_NET_ARENA_BYTES 384u",
        "#define HAND_X20_NET_INPUT_X_BYTES 192u",
        "#define HAND_X20_NET_INPUT_X_SHAPE {1, 4, 4, 3}",
        "/* input 0: x, f32 [1, 4, 4, 3], NHWC */",
        "#define HAND_X20_NET_INPUT_K_ZERO_POINT (-3)",
        "#define HAND_X20_NET_OUTPUT_Q_SCALE 0x1.0000000000000p-1f",
    ):
        assert line in header
    scale = re.search(r"INPUT_K_SCALE (\S+)f ", header)
    assert scale is not None and float.fromhex(scale[1]) == float(np.float32(0.1))


def test_macros_of_tensors_stay_apart() -> None:
    header = render(graph=handmade.graph(x="Image", k="image"),
                    vectors=None).files["include/hand_x20_net.h"].decode()  # fmt: skip
    assert "#define HAND_X20_NET_INPUT_Image_BYTES 192u" in header
    assert "#define HAND_X20_NET_INPUT_image_BYTES 3u" in header
    plain = render(graph=handmade.graph(x="Image"), vectors=None).files["include/hand_x20_net.h"]
    assert b"#define HAND_X20_NET_INPUT_IMAGE_BYTES 192u" in plain


HOSTILE = '*/ #error \\\n"%s" ??/ `rm` \x00\x1b[2J é {{ 7 }}'


def test_model_text_cannot_leave_comments_and_strings(tmp_path: Path) -> None:
    names = {"x": HOSTILE + "x", "k": "class", "y": "READY", "q": HOSTILE + "y"}
    graph = handmade.graph(**names)
    kernels = tuple(
        dataclasses.replace(k, name=k.name if k.name == "affine" else HOSTILE + k.name)
        for k in graph.kernels
    )
    name = HOSTILE
    kernel = handmade.kernel_object(runner.kernel_prefix(name), tmp_path)
    code = render(
        kernel, name, graph=dataclasses.replace(graph, kernels=kernels),
        vectors=handmade.vectors(**names), origin=emit.Origin(HOSTILE, {HOSTILE: HOSTILE}),
    )  # fmt: skip
    compiler = toolchain.find_for(toolchain.host_arch())
    built = programs.build(
        code.files, code.model.id, compiler, tmp_path / "build", wanted=("self_test",)
    )
    done = subprocess.run([built.paths["self_test"]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for path, content in code.files.items():
        if path.endswith((".c", ".h")):
            assert b"\x1b" not in content and b"\x00" not in content, path


def test_an_output_that_is_a_view_of_an_input_is_copied(tmp_path: Path) -> None:
    tensors = {"x": Tensor("x", (1, 2, 2, 1)), "flat": Tensor("flat", (1, 4)),
               "again": Tensor("again", (4,))}  # fmt: skip
    graph = KernelGraph("view", tensors, (), ("x",), ("flat", "again"), {"flat": "x", "again": "x"})
    code = emit.render(
        graph, MemoryPlan((), 0, 0, 64), (), (), {}, name="view", origin=emit.Origin("test")
    )
    compiler = toolchain.find_for(toolchain.host_arch())
    built = programs.build(code.files, "view", compiler, tmp_path, wanted=("infer", "self_test"))
    data = np.arange(4, dtype=np.float32).tobytes()
    done = subprocess.run([built.paths["infer"]], input=data, capture_output=True, check=True)
    assert done.stdout == data + data
    shown = subprocess.run([built.paths["self_test"]], capture_output=True, text=True, check=True)
    assert shown.stdout == "view: no embedded test vectors\n"


def kernel(index: int, **changes: object) -> KernelGraph:
    graph = handmade.graph()
    kernels = list(graph.kernels)
    kernels[index] = dataclasses.replace(kernels[index], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(graph, kernels=tuple(kernels))


def smaller_plan(name: str) -> MemoryPlan:
    plan = handmade.plan()
    return dataclasses.replace(
        plan,
        buffers=tuple(
            dataclasses.replace(b, size_bytes=b.size_bytes // 2) if b.name == name else b
            for b in plan.buffers
        ),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functions": handmade.FUNCTIONS[:3]}, "one function and one set of constants"),
        ({"constants": ({}, {}, {}, {})}, "lacks constant 'w'"),
        ({"plan": smaller_plan("t")}, "no buffer of 192 bytes for 't'"),
        ({"plan": smaller_plan("scratch:affine")}, "no buffer of 192 bytes for 'scratch:affine'"),
        ({"plan": dataclasses.replace(handmade.plan(), arena_bytes=380)}, "leaves the arena"),
        ({"plan": dataclasses.replace(handmade.plan(), alignment_bytes=8)}, "too small"),
        ({"graph": kernel(1, inputs=("t",))}, "too few inputs"),
        ({"graph": kernel(1, inputs=("t", "x", "x"))}, "too many inputs"),
        ({"graph": kernel(1, key=handmade.POOL)}, "function of another key"),
        ({"graph": kernel(1, output="x")}, "writes into the network's input 'x'"),
        ({"graph": kernel(1, output="q")}, "'q' is i8, its kernel has f32"),
        ({"kernel_files": {"../k.o": b""}}, "neither .o nor .c"),
        ({"vectors": handmade.vectors(x="z")}, "vectors for"),
    ],
)
def test_parts_that_contradict_each_other_are_found(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        render(**changes)  # type: ignore[arg-type]


def test_templates_refuse_missing_variables() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'net' is undefined"):
        emit.render_template("header.h.j2", banner=())
