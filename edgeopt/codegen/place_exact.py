"""The smallest arena, proven: offsets as an integer program for OR-tools' CP-SAT.

Time runs in half steps, so that an output that may run into its input touches it in no rectangle;
how far they keep apart is a constraint of its own. One worker, a fixed seed and a limit counted in
the solver's own deterministic units: the same plan every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeopt.codegen.place import Block

#: Blocks that are worth an exact search, and how long it may take, in the solver's units (seconds,
#: roughly).
MOST_BLOCKS, EFFORT = 400, 8.0


def improve(
    blocks: Sequence[Block],
    unit: int,
    bound: int,
    over: Mapping[str, tuple[str, ...]],
    known: Mapping[str, int],
    arena: int,
) -> tuple[int, int]:
    """Look for the smallest arena below a known one; leaves the best offsets in the blocks.

    Args:
        blocks: one buffer each, with their rivals.
        unit: all sizes and distances are multiples of it.
        bound: no arena is smaller.
        over: output -> inputs any of whose places it may take.
        known: offsets of a plan, by buffer.
        arena: its size.

    Returns:
        The arena found, and the largest bound proven.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    top = arena // unit
    total = model.new_int_var(-(-bound // unit), top, "arena")
    start = [model.new_int_var(0, top - b.size // unit, "") for b in blocks]
    places = {block.members[0]: index for index, block in enumerate(blocks)}
    begins = [2 * b.first for b in blocks]
    ends = [2 * b.last + 2 for b in blocks]
    for index, block in enumerate(blocks):
        (name,) = block.members
        model.add(total >= start[index] + block.size // unit)
        model.add_hint(start[index], known[name] // unit)
        for other, above, below in block.rivals:
            shared = other.members[0] in over.get(name, ())
            if other.last != block.first or not (shared or below < block.size):
                continue
            behind = places[other.members[0]]
            begins[index], ends[behind] = 2 * block.first + 1, 2 * other.last + 1
            higher, lower = model.new_bool_var(""), model.new_bool_var("")
            model.add(start[index] >= start[behind] + above // unit).only_enforce_if(higher)
            model.add(start[behind] >= start[index] + below // unit).only_enforce_if(lower)
            choices = [higher, lower]
            if shared:
                choices.append(model.new_bool_var(""))
                model.add(start[index] == start[behind]).only_enforce_if(choices[-1])
            model.add_bool_or(choices)
    model.add_no_overlap_2d(
        [
            model.new_fixed_size_interval_var(begin, end - begin, "")
            for begin, end in zip(begins, ends, strict=True)
        ],
        [
            model.new_fixed_size_interval_var(at, block.size // unit, "")
            for at, block in zip(start, blocks, strict=True)
        ],
    )
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = EFFORT
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return arena, bound  # found nothing in its time
    for index, block in enumerate(blocks):
        block.offset = solver.value(start[index]) * unit
    found = max(block.offset + block.size for block in blocks)
    # The objective's bound is a whole number of units, but for rounding in its representation.
    proven = round(solver.best_objective_bound) * unit
    return found, max(bound, min(proven, found))
