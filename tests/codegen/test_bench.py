"""The program that times kernels: built from hand-written ones, run, its lines read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import handmade
import numpy as np
import pytest

from edgeopt.codegen import bench, toolchain


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    compiler = toolchain.find_for(toolchain.host_arch())
    kernels = handmade.kernel_object("b_", folder, compiler.argv[0])
    path = folder / "program"
    bench.build_kernel_bench(
        handmade.FUNCTIONS, handmade.WEIGHTS, kernels, compiler, path, symbol_prefix="b_"
    )
    return path


def lines(program: Path, *args: str) -> list[dict[str, object]]:
    done = subprocess.run([program, *args], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


FAST = ("--min-us", "1", "--samples", "2")


def test_every_kernel_is_visited_once_a_pass(program: Path) -> None:
    head, *results, end = lines(program, "--passes", "3", *FAST)
    assert head["bench"] == 1 and head["kernels"] == 4
    assert end == {"done": True}
    seen = sorted((r["pass"], r["key"]) for r in results)
    digests = sorted(f.key.digest for f in handmade.FUNCTIONS)
    assert seen == [(p, d) for p in range(3) for d in digests]
    for result in results:
        samples = result["ns"]
        assert isinstance(samples, list) and len(samples) == 2
        assert all(value > 0 for value in samples)


def test_the_order_follows_the_seed(program: Path) -> None:
    def order(seed: int) -> list[object]:
        return [r["key"] for r in lines(program, "--passes", "4", "--seed", str(seed), *FAST)[1:-1]]

    assert order(7) == order(7)
    assert order(7) != order(8)


def test_kernels_are_chosen_by_digest_or_index(program: Path) -> None:
    digest = handmade.POOL.digest
    _, *results, _ = lines(program, "--passes", "1", *FAST, digest, "0")
    assert sorted(str(r["key"]) for r in results) == sorted([digest, handmade.AFFINE.digest])


def test_caches_can_be_displaced(program: Path) -> None:
    _, result, _ = lines(
        program, "--passes", "1", *FAST, "--flush-bytes", "1000000", handmade.POOL.digest
    )
    assert result["calls"] <= 8  # type: ignore[operator]


def test_kernels_run_in_chains_beside_anchors(program: Path) -> None:
    wanted = [f.key.digest for f in handmade.FUNCTIONS]
    options = ("--chain", "3", "--samples", "7", "--passes", "5")
    head, *results, end = lines(program, *options)
    assert end == {"done": True} and head["bench"] == 1
    assert sorted(str(r["key"]) for r in results) == sorted(wanted * 5)
    for result in results:
        samples, anchors = result["ns"], result["anchors"]
        assert isinstance(samples, list) and isinstance(anchors, list)
        assert result["calls"] == 1 and len(samples) == len(anchors) == 7
        assert all(value >= 0 for value in samples) and all(value > 0 for value in anchors)
    # Others fill the chain, and are not reported.
    _, *results, _ = lines(program, *options, wanted[0])
    assert [r["key"] for r in results] == wanted[:1] * 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nosuchkernel",), "option needs a whole number in range: nosuchkernel"),
        (("--passes", "0"), "option needs a whole number in range: --passes"),
        (("--passes",), "option needs a whole number in range: --passes"),
        (("--frobnicate", "1"), "unknown option --frobnicate"),
    ],
)
def test_bad_arguments_are_refused(program: Path, args: tuple[str, ...], message: str) -> None:
    done = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {message}"


def test_large_constants_are_not_embedded() -> None:
    function = handmade.FUNCTIONS[0]
    large = {"w": np.zeros(bench.EMBED_BYTES, np.float32), "b": np.ones(3, np.float32)}
    table = bench.render_kernel_bench([function], [large])["kernel_table.c"].decode()
    assert f'{{"f32", {4 * bench.EMBED_BYTES}u, NULL, EDGEOPT_BENCH_CONSTANT}}' in table
    assert '{"f32", 12u, &constant_0, EDGEOPT_BENCH_CONSTANT}' in table
    assert len(table) < 4000


def test_a_missing_constant_is_a_bug() -> None:
    with pytest.raises(ValueError, match="constant 'w' is missing"):
        bench.render_kernel_bench([handmade.FUNCTIONS[0]], [{}])
    with pytest.raises(ValueError, match="same key"):
        bench.render_kernel_bench([handmade.FUNCTIONS[1]] * 2, [{}, {}])
