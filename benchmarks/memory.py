"""Peak arena bytes of networks beside the lower bound (the largest set of bytes live at once).

    python benchmarks/memory.py [--space cifar] [--device rpi4] [--count 10] [--seed 0]
                                [--boards nucleo-l4r5zi,nucleo-h743zi,mps3-an547,rpi-pico,esp32c3]

First the int8 networks of MLPerf Tiny on microcontrollers, from $EDGEOPT_DATA/mlperf_tiny: the
arena with the kernels' scratch, its lower bound, what is proven to be needed, and what it would be
if no output shared memory with the input it is computed from (``apart``). ``in+out`` is the
caller's, outside the arena; ``peers`` is what TensorFlow Lite Micro with CMSIS-NN takes in all, as
published. Then the same with ``--patches auto``: how the first kernels are divided, and the
multiply-accumulates that are done twice for it.

Then subnets of a space: the first two are its largest and its smallest, the others random. Scratch
of the kernels is counted; network inputs and outputs are the caller's. ``unshared`` is what the
same buffers would take side by side.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path

from edgeopt.codegen import cost
from edgeopt.codegen.lower import lower_shapes
from edgeopt.codegen.plan import check_plan, plan
from edgeopt.codegen.runner import buffer_alignment
from edgeopt.devices.profile import load
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.ofa.describe import describe
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.artifact import make_artifact

#: MLPerf Tiny: file, goal for the arena in bytes, RAM of TensorFlow Lite Micro with CMSIS-NN in kB.
MODELS = {
    "kws": ("kws_ref_model.op18.onnx", 16_500, 23.4),
    "vww": ("vww_96_int8.op18.onnx", 56_000, 101.0),
}
BOARDS = "nucleo-l4r5zi,nucleo-h743zi,nucleo-u575zi-q,mps3-an547,rpi-pico,esp32c3"


def models(boards: list[str]) -> None:
    folder = Path(os.environ["EDGEOPT_DATA"]) / "mlperf_tiny"
    print("MLPerf Tiny, int8, 16-byte alignment; bytes")
    divided = []
    print(f"{'model':>5} {'board':>16} {'arena':>7} {'goal':>7} {'bound':>7} {'proven':>7} "
          f"{'scratch':>7} {'apart':>7} {'in+out':>7} {'together':>8} {'peers':>8}")  # fmt: skip
    for name, (file, goal, peer_kb) in MODELS.items():
        network = import_model(load_model(folder / file)).network
        for board in boards:
            target = load(board).target
            made = make_artifact(network, target)
            graph = made.graph
            scratch = [function.scratch_bytes for function in made.functions]
            apart = plan(graph, scratch, buffer_alignment(target), exact=True)
            assert apart.arena_bytes >= made.plan.arena_bytes
            callers = sum(graph.tensors[n].size_bytes for n in graph.inputs + graph.outputs)
            found = made.plan
            print(f"{name:>5} {board:>16} {found.arena_bytes:>7,} {goal:>7,} "
                  f"{found.lower_bound_bytes:>7,} {found.proven_bytes:>7,} {max(scratch):>7,} "
                  f"{apart.arena_bytes:>7,} {callers:>7,} {found.arena_bytes + callers:>8,} "
                  f"{peer_kb:>5} kB")  # fmt: skip
            patched = make_artifact(network, target, patches="auto")
            if patched.patches is not None:
                least, how = patched.plan, patched.patches
                divided.append(
                    f"{name:>5} {board:>16} {least.arena_bytes:>7,} {least.lower_bound_bytes:>7,} "
                    f"{least.proven_bytes:>7,} {how.kernels:>7} {how.strips:>6} "
                    f"{how.extra_macs:>10,} {100 * how.extra_macs / how.macs:>6.1f} %"
                )
    print("\nthe same with --patches auto, where that makes the arena smaller")
    print(f"{'model':>5} {'board':>16} {'arena':>7} {'bound':>7} {'proven':>7} {'kernels':>7} "
          f"{'strips':>6} {'extra MACs':>10} {'extra':>8}")  # fmt: skip
    print("\n".join(divided) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--device", default="rpi4")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boards", default=BOARDS)
    options = parser.parse_args()
    if options.boards:
        models(options.boards.split(","))
    space, target = load_space(options.space), load(options.device).target
    sample = random.Random(options.seed)
    configs = [space.max_config(), space.min_config()]
    configs += [space.sample(sample) for _ in range(options.count - 2)]
    print(f"{options.space} on {options.device}, 64-byte alignment; bytes")
    print(f"{'subnet':>6} {'type':>4} {'kernels':>7} {'arena':>9} {'bound':>9} {'ratio':>6} "
          f"{'unshared':>9} {'scratch':>8} {'cost ms':>8}")  # fmt: skip
    ratios = []
    for index, config in enumerate(configs):
        network = describe(space, config)
        for precision in ("f32", "i8"):
            graph = lower_shapes(network, precision)
            scratch = cost.scratch_bytes(graph, target)
            planned = cost.memory(graph, target)
            check_plan(graph, planned, scratch)
            start = time.process_time()
            found = cost.evaluate(network, precision, target)
            spent_ms = 1e3 * (time.process_time() - start)
            assert found.arena_bytes == planned.arena_bytes
            ratios.append(planned.arena_bytes / planned.lower_bound_bytes)
            unshared = sum(buffer.size_bytes for buffer in planned.buffers)
            print(f"{index:>6} {precision:>4} {len(graph.kernels):>7} {planned.arena_bytes:>9,} "
                  f"{planned.lower_bound_bytes:>9,} {ratios[-1]:>6.3f} {unshared:>9,} "
                  f"{max(scratch.values()):>8,} {spent_ms:>8.2f}")  # fmt: skip
    print(f"arena / lower bound: mean {statistics.mean(ratios):.4f}, worst {max(ratios):.4f}")


if __name__ == "__main__":
    main()
