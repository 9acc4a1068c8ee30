"""Networks for several threads: the generated C, its pool, and the same bits for any number."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import handmade
import networks
import pytest
from test_runner import COMPILERS, CPP, SANITIZE, build_by_hand, compiled, gcc_like, render, write
from test_runner_end_to_end import NAME, make, make_vectors

from edgeopt import devices
from edgeopt.codegen import emit, programs, runner, toolchain, verify
from edgeopt.codegen.abi import Arg, symbol_of
from edgeopt.codegen.schedules import parts
from edgeopt.codegen.toolchain import STRICT_FLAGS
from edgeopt.core.errors import InputError

RACES = ("-fsanitize=thread", "-g")

#: The first two kernels of `handmade`, in two parts.
DIVIDED = """
#include <stdint.h>
int32_t {affine}(const float *x, const float *w, const float *b, float *y, void *scratch, int32_t);
int32_t {residual}(const float *a, const float *b, float *y, void *scratch, int32_t part);
int32_t {affine}(const float *x, const float *w, const float *b, float *y, void *scratch,
                 int32_t part) {{
    float *work = (float *)scratch;
    int i;
    for (i = 24 * part; i < 24 * part + 24; ++i) work[i] = x[i] * w[i % 3];
    for (i = 24 * part; i < 24 * part + 24; ++i) y[i] = work[i] + b[i % 3];
    return 0;
}}
int32_t {residual}(const float *a, const float *b, float *y, void *scratch, int32_t part) {{
    int i;
    (void)scratch;
    for (i = 24 * part; i < 24 * part + 24; ++i) y[i] = a[i] + b[i];
    return 0;
}}
"""


def divided(folder: Path, name: str = "hand net", *flags: str) -> emit.Code:
    """The network of `handmade` for two threads."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = runner.kernel_prefix(name)
    symbols = {
        name: prefix + symbol_of(key)
        for name, key in (("affine", handmade.AFFINE), ("residual", handmade.RESIDUAL))
    }
    whole = handmade.kernel_source(prefix)
    others = whole.index(f"int32_t {prefix}{symbol_of(handmade.POOL)}", whole.index("{"))
    (folder / "kernels.c").write_text(DIVIDED.format(**symbols) + whole[others:])
    subprocess.run(
        ["gcc", "-O2", "-fPIC", *flags, "-c", "kernels.c", "-o", "kernels.o"],
        cwd=folder, check=True,
    )  # fmt: skip
    functions = tuple(
        dataclasses.replace(f, parts=2, args=(*f.args, Arg("part", "part", "i32")))
        if index < 2
        else f
        for index, f in enumerate(handmade.FUNCTIONS)
    )
    return render((folder / "kernels.o").read_bytes(), name, functions=functions)


def test_code_for_one_thread_knows_nothing_of_threads(tmp_path: Path) -> None:
    code = compiled(tmp_path)
    assert not [path for path in code.files if "pool" in path]
    for path, content in code.files.items():
        if path.startswith(("include/", "src/")):
            assert b"_pool" not in content and b"thread" not in content.lower(), path


@pytest.mark.parametrize("name", COMPILERS)
def test_programs_for_threads_build_without_a_warning_and_pass(
    name: str, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    code = divided(tmp_path)
    assert code.model.threads == 2
    built = programs.build(
        code.files, code.model.id, gcc_like(needs_tool, name), tmp_path / "build",
        wanted=tuple(programs.PROGRAMS), flags=("-O2", "-Wshadow", *STRICT_FLAGS),
    )  # fmt: skip
    done = subprocess.run([built.paths["self_test"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "hand net: self-test passed\n")
    vectors = handmade.vectors(5)
    results = [
        subprocess.run(
            [built.paths["infer"], *options], input=vectors.input_bytes, check=True,
            capture_output=True,
        ).stdout
        for options in ((), ("--threads", "1"), ("--threads", "3"))
    ]  # fmt: skip
    assert len(results[0]) == len(vectors.output_bytes)
    assert results[0] == results[1] == results[2]
    for program in ("bench", "bench_kernels"):
        for threads in ("1", "2"):
            arguments = ["--runs", "3", "--min-ms", "0", "--warmup", "1", "--threads", threads]
            done = subprocess.run([built.paths[program], *arguments], capture_output=True)
            assert done.returncode == 0 and b'"median_ns": ' in done.stdout


def test_a_program_for_one_thread_refuses_more(tmp_path: Path) -> None:
    code = compiled(tmp_path)
    compiler = toolchain.find_for(toolchain.host_arch())
    built = programs.build(code.files, code.model.id, compiler, tmp_path, wanted=("bench",))
    done = subprocess.run(
        [built.paths["bench"], "--threads", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: the network was compiled for one thread, not 2\n"


POOLED = r"""
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "one.h"
#include "two.h"
static ONE_ALIGNED unsigned char arena_1[ONE_SELF_TEST_ARENA_BYTES];
static TWO_ALIGNED unsigned char arena_2[TWO_SELF_TEST_ARENA_BYTES];
static edgeopt_pool pool;
static int failures;
static void expect(const char *what, int got, int wanted) {
    if (got != wanted) {
        (void)printf("%s: %d instead of %d\n", what, got, wanted);
        __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    }
}
static void *run_two(void *unused) {
    two_ctx ctx;
    int i;
    memset(&ctx, 0, sizeof ctx);
    expect("init two", (int)two_init(&ctx, arena_2, sizeof arena_2), TWO_OK);
    expect("pool two", (int)two_set_pool(&ctx, &pool), TWO_OK);
    for (i = 0; i < 300; ++i) {
        expect("two on the shared pool", (int)two_self_test(&ctx), TWO_OK);
    }
    return unused;
}
int main(void) {
    one_ctx ctx, wild;
    pthread_t other;
    int i;
    memset(&ctx, 0, sizeof ctx);
    memset(&wild, 0xa5, sizeof wild);
    expect("threads", ONE_THREADS, 2);
    expect("pool of no context", (int)one_set_pool(NULL, &pool), ONE_ERROR_NULL);
    expect("pool before init", (int)one_set_pool(&ctx, &pool), ONE_ERROR_NOT_READY);
    expect("pool of garbage", (int)one_set_pool(&wild, &pool), ONE_ERROR_NOT_READY);
    expect("init", (int)one_init(&ctx, arena_1, sizeof arena_1), ONE_OK);
    expect("without a pool", (int)one_self_test(&ctx), ONE_OK);
    expect("set", (int)one_set_pool(&ctx, &pool), ONE_OK);
    expect("with a pool that is not started", (int)one_self_test(&ctx), ONE_OK);
    expect("start", (int)edgeopt_pool_start(&pool, 3), EDGEOPT_POOL_OK);
    expect("other", pthread_create(&other, NULL, run_two, NULL), 0);
    for (i = 0; i < 300; ++i) {
        expect("one on the shared pool", (int)one_self_test(&ctx), ONE_OK);
    }
    expect("join", pthread_join(other, NULL), 0);
    expect("stop", (int)edgeopt_pool_stop(&pool), EDGEOPT_POOL_OK);
    expect("with a pool that is stopped", (int)one_self_test(&ctx), ONE_OK);
    expect("taken away", (int)one_set_pool(&ctx, NULL), ONE_OK);
    expect("without a pool again", (int)one_self_test(&ctx), ONE_OK);
    return failures;
}
"""


@pytest.mark.parametrize("flags", [SANITIZE, RACES], ids=["address", "races"])
def test_two_networks_share_a_pool_whatever_its_state(
    flags: tuple[str, ...], needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    compiler = dataclasses.replace(
        gcc_like(needs_tool, "gcc"), c_flags=flags, link_flags=(*flags, "-pthread")
    )
    codes = [divided(tmp_path / f"k{name}", name, *flags) for name in ("one", "two")]
    program = build_by_hand(tmp_path, compiler, POOLED, codes, flags=("-O1", *STRICT_FLAGS))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_threaded_header_serves_cpp(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    cpp = needs_tool("g++")
    code = divided(tmp_path)
    write(code, tmp_path)
    (tmp_path / "main.cpp").write_text(CPP)
    subprocess.run(
        [cpp, "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror",
         "-Iinclude", "-c", "main.cpp"],
        cwd=tmp_path, check=True,
    )  # fmt: skip


@pytest.mark.usefixtures("host_is_x86_64_v3")
@pytest.mark.parametrize("integer", [False, True], ids=["f32", "i8"])
def test_any_number_of_threads_gives_the_same_bits(
    integer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled for 1, 2, 3 and 4 threads, run on 1 to 5; every kernel is divided that can be."""
    network = networks.mobilenet(5, size=16, blocks=2, integer=integer)
    vectors = make_vectors(network)
    monkeypatch.setattr(parts, "best", lambda threads, *_: parts.Division(threads, 1e9))
    found = {}
    for device, counts in (("local", (1, 2, 3)), ("rpi4", (1, 4))):
        for threads in counts:
            profile = dataclasses.replace(devices.load(device), threads=threads)
            engine = verify.engine_for(profile)
            if isinstance(engine, verify.Missing):
                continue
            code = make(network, profile).code
            assert code.model.threads == threads
            folder = tmp_path / f"{device}{threads}"
            folder.mkdir()
            compiler = toolchain.find(profile)
            built = programs.build(code.files, NAME, compiler, folder, wanted=("infer",))
            for used in {1, threads, threads + 1} if threads > 1 else {1}:
                done = subprocess.run(
                    [*engine.argv, built.paths["infer"], "--threads", str(used)],
                    input=vectors.input_bytes, capture_output=True, check=True,
                )  # fmt: skip
                found[device, threads, used] = done.stdout
    for (device, threads, used), data in found.items():
        assert data == found[device, 1, 1], (device, threads, used)
    if integer and ("rpi4", 1, 1) in found:
        assert found["local", 1, 1] == found["rpi4", 1, 1]


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        devices.load("rpi4").with_threads(5)
    assert "cannot run 5 threads at once" in str(caught.value)
    assert "it has 4 cores" in str(caught.value)
    assert devices.load("rpi4").with_threads(4).target.threads == 4
