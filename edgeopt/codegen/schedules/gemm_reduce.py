"""The inner loop of a tiled matrix product: one run of the reduction."""

from __future__ import annotations

from edgeopt.codegen.schedules import dot
from edgeopt.codegen.schedules.emit import Buffer, Builder, Expr, Registers, dtype_of, part, tirx
from edgeopt.codegen.schedules.gemm_plan import Plan
from edgeopt.codegen.schedules.gemm_run import Run, run_of, steps_at_once
from edgeopt.codegen.schedules.isa import Isa
from edgeopt.codegen.schedules.unpack import Stream

#: Floats of one line of every cache.
LINE_FLOATS = 16
#: Bytes ahead at which weights that are read once are asked for.
_STREAM_AHEAD_BYTES = 1024


def reduce(
    b: Builder, isa: Isa, plan: Plan, source: Buffer, integer: bool, acc: Registers, at: Expr,
    weights: Expr, pixels: int, vectors: int, ahead: Expr | None = None, *, together: bool = True,
    run: Run | None = None,
) -> None:  # fmt: skip
    """Add one contiguous run of the reduction to the accumulators of a tile.

    Each step asks for one line of the weights from ``ahead`` on, which are wanted next. ``run`` is
    the plan's own unless given.
    """
    window = plan.window
    width = plan.lanes * plan.pack  # weights of one vector and step
    stride = vectors * width
    element_bytes = {"float32": 4, "int16": 2, "int8": 1, "uint8": 1}[dtype_of(b["weights"])[0]]
    line, far = 4 * LINE_FLOATS // element_bytes, _STREAM_AHEAD_BYTES // element_bytes
    # One pixel reads each weight once, faster than the processor by itself asks for them.
    streams = integer and isa.arch == "x86_64" and window.out_cols * window.out_rows == 1
    chunk = steps_at_once(plan, isa, vectors)
    block = chunk * stride * plan.bits // 8 if plan.is_packed else chunk * stride
    run = run_of(plan, isa, vectors) if run is None else run

    def step(x_at: Expr, w_at: Expr, count: int, whole: bool, first: Expr) -> None:
        held = None
        if whole and isa.by_element:
            held = [
                b.bind(b.load(source, x_at + m * window.col_stride, chunk * plan.pack))
                for m in range(pixels)
            ]
        packed = Stream(b, isa, plan.bits, w_at, width) if plan.is_packed else None
        for start in range(0, block if streams and packed is not None else 0, line):
            b.prefetch(b["weights"], w_at + (start + far))
        for j in range(count):
            if ahead is not None:
                b.prefetch(b["weights"], ahead + (first + j) * line)
            if streams and packed is None:
                for start in range(0, stride, line):
                    b.prefetch(b["weights"], w_at + (j * stride + start + far))
            w = []
            for n in range(vectors):
                if packed is not None:
                    w.append(packed.vector(j * vectors + n))
                else:
                    at = (j * vectors + n) * width
                    w.append(b.bind(dot.weights(b, isa, integer, w_at, at)))
            s = j % plan.split
            for m in range(pixels):
                if held is not None:
                    x = part(held[m], j * plan.pack, plan.pack)
                else:
                    x_index = x_at + m * window.col_stride + j * plan.pack
                    x = b.load(source, x_index, plan.pack)
                spread = [b.bind(v) for v in dot.spread(isa, integer, x, plan.lanes)]
                for n in range(vectors):
                    index = (s * pixels + m) * vectors + n
                    acc[index] = dot.accumulate(
                        isa, integer, acc[index], w[n], spread, together=together
                    )

    if isinstance(run.whole, int):
        chunks = run.whole // run.turn
        with b.loop(chunks, "k") as k:
            x_at, w_at = at + k * chunk * plan.pack, weights + k * block
            step(x_at, w_at, chunk, chunk == 4, k * chunk)
        after = weights + chunks * block
    else:
        zero = tirx.IntImm("int64", 0)
        reached = b.registers(1, "int64", 1)
        reached[0] = zero + weights
        with b.steps(zero, run.whole, run.turn) as done:
            step(at + done, b.bind(reached[0], "w"), chunk, chunk == 4, 0)
            reached[0] = reached[0] + block
        after = b.bind(reached[0], "w")
    if plan.is_packed and run.rest:
        step(at + run.whole, after, run.rest, False, run.whole // plan.pack)
    elif run.rest:
        with b.loop(run.rest, "k") as k:
            x_at, w_at = at + (run.whole + k * plan.pack), after + k * stride
            step(x_at, w_at, 1, False, run.whole // plan.pack + k)
