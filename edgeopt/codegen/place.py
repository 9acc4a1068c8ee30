"""Putting blocks of memory into one arena: what must keep how far apart, and greedy placement.

A block is a place that buffers share; its time is the kernels it is in use at. Two blocks in use at
the same time keep apart by the size of the lower one, but where a kernel writes its output over an
input that it reads in order: then the output may start a little below the input and run into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

#: How often an order is mended, and how often without gain; blocks that are then moved in it.
_MENDINGS, _STALE, _MOVES = 8, 3, 100


@dataclass(slots=True)
class Block:
    """Buffers that share one place: a tensor and what is written over it in turn.

    Attributes:
        size: bytes, rounded up to the alignment.
        first: the first kernel it is in use at.
        last: the last.
        members: the buffers in it, in the order of their lives.
        offset: where it lies; -1 while it lies nowhere.
        rivals: blocks in use at the same time, with how far this block must lie above the other
            (if it lies above), and below it (if below).
    """

    size: int
    first: int
    last: int
    members: list[str]
    offset: int = 0
    rivals: list[tuple[Block, int, int]] = field(default_factory=list)


def find_rivals(
    blocks: Sequence[Block], kernels: int, streams: Mapping[str, tuple[str, int]]
) -> None:
    """Tell each block which others are in use at the same time, and the distances to keep.

    Args:
        blocks: with their times.
        kernels: how many there are.
        streams: output -> the input it may run into from below, and how far below it must start.
    """
    starting: list[list[Block]] = [[] for _ in range(kernels)]
    for block in blocks:
        starting[block.first].append(block)
    live: list[Block] = []
    for index, new in enumerate(starting):
        live = [block for block in live if block.last >= index]
        for block in new:
            stream = streams.get(block.members[0])
            for other in live:
                # This block starts as the other ends: an output and the input it may run into.
                reach = block.size  # how far below the other it must start, where it lies below
                if stream is not None and other.last == index and other.members[-1] == stream[0]:
                    reach = min(reach, stream[1])
                block.rivals.append((other, other.size, reach))
                other.rivals.append((block, reach, other.size))
            live.append(block)


def place(blocks: Sequence[Block]) -> int:
    """Give every block the lowest offset that is free, in the order given; return the arena."""
    for block in blocks:
        block.offset = -1
    arena = 0
    for block in blocks:
        position = 0
        taken = [
            (other.offset - below, other.offset + above)
            for other, above, below in block.rivals
            if other.offset >= 0
        ]
        for start, end in sorted(taken):  # no offset strictly between them is allowed
            if position <= start:
                break
            position = max(position, end)
        block.offset = position
        if position + block.size > arena:
            arena = position + block.size
    return arena


def _orders(blocks: list[Block], pressure: Sequence[int]) -> Iterator[list[Block]]:
    """Orders that greedy placement is tried in, the most often best first."""
    yield sorted(blocks, key=lambda b: (-b.size, b.first))
    yield sorted(blocks, key=lambda b: (-max(pressure[b.first : b.last + 1]), -b.size))
    yield sorted(blocks, key=lambda b: (-b.size * (b.last - b.first + 1), b.first))
    yield sorted(blocks, key=lambda b: (b.first - b.last, -b.size))
    yield sorted(blocks, key=lambda b: (b.first, -b.size))
    yield sorted(blocks, key=lambda b: (-b.last, -b.size))


def place_high(blocks: Sequence[Block], ceiling: int) -> int:
    """The same from above: every block as high under a ceiling as is free, or low where none is.

    A chain whose outputs run into their inputs from below goes down step by step, and so must start
    high.
    """
    for block in blocks:
        block.offset = -1
    arena = 0
    for block in blocks:
        taken = [
            (other.offset + above, other.offset - below)
            for other, above, below in block.rivals
            if other.offset >= 0
        ]
        position = ceiling - block.size
        for end, start in sorted(taken, reverse=True):
            if position >= end:
                break
            position = min(position, start)
        if position < 0:
            position = 0
            for start, end in sorted((start, end) for end, start in taken):
                if position <= start:
                    break
                position = max(position, end)
        block.offset = position
        arena = max(arena, position + block.size)
    return arena


def attempts(
    blocks: list[Block], pressure: Sequence[int], bound: int
) -> Iterator[tuple[int, dict[str, int]]]:
    """Arena sizes and offsets of one plan after another, until one reaches the bound.

    Each order is mended: what ends up at the top of the arena is placed first the next time, until
    that brings nothing more. Then each is placed from above, and last blocks of the best order are
    moved at random, the same way every time.
    """
    best, least = blocks, -1
    for first in _orders(blocks, pressure):
        order, lowest, stale = first, -1, 0
        for _ in range(_MENDINGS):
            arena = place(order)
            yield arena, offsets(blocks)
            if arena == bound:
                return
            if least < 0 or arena < least:
                best, least = order, arena
            stale = 0 if lowest < 0 or arena < lowest else stale + 1
            lowest = arena if lowest < 0 else min(lowest, arena)
            if stale > _STALE:
                break
            high = [block for block in order if block.offset + block.size == arena]
            order = high + [block for block in order if block.offset + block.size != arena]
        yield place_high(first, bound), offsets(blocks)
    random = Random(0)
    for _ in range(_MOVES if len(blocks) > 1 else 0):
        order = list(best)
        place_in = random.randrange(len(order))
        block = order.pop(place_in)
        # Mostly forward: what is placed late suffers.
        order.insert(random.randrange(place_in + 1 if random.random() < 0.7 else len(order)), block)
        arena = place(order)
        if arena <= least:
            yield arena, offsets(blocks)
            best, least = order, arena
        if arena == bound:
            return


def offsets(blocks: Sequence[Block]) -> dict[str, int]:
    """Where each buffer lies."""
    return {member: block.offset for block in blocks for member in block.members}
