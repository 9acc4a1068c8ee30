"""Search spaces and subnets: data, not code.

A `SearchSpace` is read from TOML (`parse_space`); a `SubnetConfig` picks one network from it;
`SearchSpace.layout` resolves the pick to concrete channel counts, which is all that building,
describing or costing the network needs.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from edgeopt.core.errors import InputError, suggest

SCHEMA = 1
ACTIVATIONS = ("relu", "hardswish")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor`` without losing more than 10 % (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class SubnetConfig:
    """One network of a space: a choice for every elastic block, used or not.

    ``kernels`` and ``expands`` have one entry a block (the longest depth of every stage),
    ``depths`` one a stage. `str` and `parse` are inverses.
    """

    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    depths: tuple[int, ...]
    resolution: int

    def __str__(self) -> str:
        return (
            f"r{self.resolution}-d{_join(self.depths)}"
            f"-k{_join(self.kernels)}-e{_join(self.expands)}"
        )

    @classmethod
    def parse(cls, text: str) -> SubnetConfig:
        """Read the text that `str` writes, e.g. ``r32-d1.2-k3.5.3-e2.4.3``.

        Raises:
            InputError: the text has another form.
        """
        parts = text.strip().split("-")
        if len(parts) != 4 or [part[:1] for part in parts] != ["r", "d", "k", "e"]:
            raise InputError(
                f"{text[:120]!r} is not a subnet",
                where="subnet",
                hint="write it as r<resolution>-d<depths>-k<kernels>-e<expands>, "
                "numbers joined by dots",
            )
        numbers: list[tuple[int, ...]] = []
        for part in parts:
            fields = part[1:].split(".")
            if not all(f.isascii() and f.isdigit() and len(f) <= 5 for f in fields):
                raise InputError(f"{part[:80]!r} is not a list of numbers", where="subnet")
            numbers.append(tuple(int(f) for f in fields))
        if len(numbers[0]) != 1:
            raise InputError(f"{parts[0]!r} must name one resolution", where="subnet")
        return cls(numbers[2], numbers[3], numbers[1], numbers[0][0])

    def to_ofa(self) -> dict[str, list[int]]:
        """The dictionary the once-for-all authors use: ``{"ks", "e", "d", "r"}``."""
        return {
            "ks": list(self.kernels),
            "e": list(self.expands),
            "d": list(self.depths),
            "r": [self.resolution],
        }

    @classmethod
    def from_ofa(
        cls, mapping: Mapping[str, object], *, resolution: int | None = None
    ) -> SubnetConfig:
        """Read such a dictionary; ``r`` or ``image_size`` may be absent if given here.

        Raises:
            InputError: a part is missing or not a list of whole numbers.
        """
        lists: dict[str, tuple[int, ...]] = {}
        for key in ("ks", "e", "d"):
            value = mapping.get(key)
            if not isinstance(value, list | tuple) or not all(_is_int(v) for v in value):
                raise InputError(
                    f"{key!r} must be a list of whole numbers, one a block", where="subnet"
                )
            lists[key] = tuple(value)
        size = mapping.get("r", mapping.get("image_size", resolution))
        if isinstance(size, list | tuple) and len(size) == 1:
            size = size[0]
        if not isinstance(size, int) or isinstance(size, bool):
            raise InputError("no resolution: 'r' or 'image_size' is needed", where="subnet")
        return cls(lists["ks"], lists["e"], lists["d"], size)


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of elastic blocks of one width; only the first one strides."""

    width: int
    stride: int
    activation: str
    se: bool
    depths: tuple[int, ...]

    @property
    def max_depth(self) -> int:
        """The number of blocks the supernet holds."""
        return max(self.depths)


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted residual block with every choice made.

    ``expand`` is None for the static first block, which has no expanding convolution.
    """

    index: int  # position in the supernet: 0 is the static first block
    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: str
    se_channels: int  # 0: no squeeze-and-excite
    expand: int | None

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, slots=True)
class Layout:
    """The concrete sizes of a subnet, in execution order."""

    resolution: int
    in_channels: int
    stem_channels: int
    stem_stride: int
    stem_activation: str
    blocks: tuple[Block, ...]
    expand_channels: int
    mix_channels: int
    classes: int


@dataclass(frozen=True)
class SearchSpace:
    """What can be chosen, and the fixed parts around it. Widths are final (multiplier applied)."""

    name: str
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    resolutions: tuple[int, ...]
    stages: tuple[Stage, ...]
    stem_width: int
    stem_stride: int
    stem_activation: str
    first_width: int
    first_stride: int
    first_activation: str
    expand_width: int
    mix_width: int
    classes: int
    in_channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels scaled to 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    labels: tuple[str, ...] = ()
    summary: str = field(default="", compare=False)

    @cached_property
    def stage_starts(self) -> tuple[int, ...]:
        """Index into ``kernels``/``expands`` of each stage's first block."""
        starts = [0]
        for stage in self.stages[:-1]:
            starts.append(starts[-1] + stage.max_depth)
        return tuple(starts)

    @cached_property
    def block_count(self) -> int:
        """Number of elastic blocks."""
        return sum(stage.max_depth for stage in self.stages)

    @cached_property
    def size(self) -> int:
        """Number of different subnets (choices of unused blocks do not count)."""
        per_block = len(self.kernels) * len(self.expands)
        stages = (sum(per_block**depth for depth in stage.depths) for stage in self.stages)
        subnets: int = math.prod(stages) * len(self.resolutions)
        return subnets

    def max_config(self) -> SubnetConfig:
        """The largest subnet."""
        return self.uniform(max(self.kernels), max(self.expands), max, max(self.resolutions))

    def min_config(self) -> SubnetConfig:
        """The smallest subnet."""
        return self.uniform(min(self.kernels), min(self.expands), min, min(self.resolutions))

    def uniform(
        self, kernel: int, expand: int, depth: object, resolution: int | None = None
    ) -> SubnetConfig:
        """The same kernel and expand everywhere; ``depth`` is `min`, `max` or a number."""
        depths = tuple(
            depth(stage.depths) if callable(depth) else int(str(depth)) for stage in self.stages
        )
        size = max(self.resolutions) if resolution is None else resolution
        count = self.block_count
        return self.canonical(SubnetConfig((kernel,) * count, (expand,) * count, depths, size))

    def validate(self, config: SubnetConfig) -> SubnetConfig:
        """Return ``config`` if it belongs to the space.

        Raises:
            InputError: naming the first choice that does not.
        """
        where = f"subnet of {self.name}"
        for name, values, count in (
            ("kernels", config.kernels, self.block_count),
            ("expands", config.expands, self.block_count),
            ("depths", config.depths, len(self.stages)),
        ):
            if len(values) != count:
                raise InputError(f"{name} has {len(values)} entries, not {count}", where=where)
        for name, values, allowed in (
            ("kernel", config.kernels, self.kernels),
            ("expand", config.expands, self.expands),
            ("resolution", (config.resolution,), self.resolutions),
        ):
            for index, value in enumerate(values):
                if value not in allowed:
                    at = "" if name == "resolution" else f" of block {index}"
                    raise InputError(
                        f"{name}{at} is {value}, not one of {_join(allowed, ', ')}", where=where
                    )
        for index, (depth, stage) in enumerate(zip(config.depths, self.stages, strict=True)):
            if depth not in stage.depths:
                raise InputError(
                    f"depth of stage {index} is {depth}, not one of {_join(stage.depths, ', ')}",
                    where=where,
                )
        return config

    def active(self, config: SubnetConfig) -> Iterator[int]:
        """Indices of the blocks that are used."""
        for start, depth in zip(self.stage_starts, config.depths, strict=True):
            yield from range(start, start + depth)

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """The same network with its unused blocks set to the smallest choices."""
        kernels = [min(self.kernels)] * self.block_count
        expands = [min(self.expands)] * self.block_count
        for index in self.active(config):
            kernels[index] = config.kernels[index]
            expands[index] = config.expands[index]
        return SubnetConfig(tuple(kernels), tuple(expands), config.depths, config.resolution)

    def sample(self, rng: random.Random) -> SubnetConfig:
        """A subnet with every choice drawn uniformly, in canonical form."""
        count = self.block_count
        return self.canonical(
            SubnetConfig(
                tuple(rng.choice(self.kernels) for _ in range(count)),
                tuple(rng.choice(self.expands) for _ in range(count)),
                tuple(rng.choice(stage.depths) for stage in self.stages),
                rng.choice(self.resolutions),
            )
        )

    def layout(self, config: SubnetConfig) -> Layout:
        """Resolve a subnet to channel counts (``config`` is taken to be valid)."""
        blocks = [
            Block(
                0, self.stem_width, self.stem_width, self.first_width, 3, self.first_stride,
                self.first_activation, 0, None,
            )
        ]  # fmt: skip
        channels = self.first_width
        for stage, start, depth in zip(self.stages, self.stage_starts, config.depths, strict=True):
            for offset in range(depth):
                position = start + offset
                expand = config.expands[position]
                mid = make_divisible(round(channels * expand))
                blocks.append(
                    Block(
                        position + 1, channels, mid, stage.width, config.kernels[position],
                        stage.stride if offset == 0 else 1, stage.activation,
                        make_divisible(mid // 4) if stage.se else 0, expand,
                    )
                )  # fmt: skip
                channels = stage.width
        return Layout(
            config.resolution, self.in_channels, self.stem_width, self.stem_stride,
            self.stem_activation, tuple(blocks), self.expand_width, self.mix_width, self.classes,
        )  # fmt: skip


def _join(values: Sequence[int], separator: str = ".") -> str:
    return separator.join(str(value) for value in values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -- reading -------------------------------------------------------------------------------------

_KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset({"schema", "name", "summary", "width_multiplier", "classes", "labels", "input",
                   "elastic", "stem", "first", "stages", "head"}),
    "input": frozenset({"channels", "resolutions", "mean", "std"}),
    "elastic": frozenset({"kernels", "expands"}),
    "stem": frozenset({"width", "stride", "activation"}),
    "first": frozenset({"width", "stride", "activation"}),
    "stages": frozenset({"width", "stride", "activation", "se", "depths"}),
    "head": frozenset({"expand_width", "mix_width"}),
}  # fmt: skip


class _Table:
    """One TOML table whose keys are checked and whose errors say where."""

    def __init__(self, data: object, section: str, where: str) -> None:
        self.where = f"{where}: [{section}]" if section else where
        if not isinstance(data, dict):
            raise InputError("must be a table", where=self.where)
        known = _KEYS[section.partition(" ")[0]]
        for key in data:
            if key not in known:
                raise InputError(
                    f"unknown key {key!r}", where=self.where, hint=suggest(key, known, noun="key")
                )
        self.data = data

    def get(self, key: str, default: object = None) -> object:
        if key not in self.data and default is None:
            raise InputError(f"key {key!r} is missing", where=self.where)
        return self.data.get(key, default)

    def integer(self, key: str, low: int = 1, high: int = 65536) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(
                f"{key} is {value!r}, not a whole number from {low} to {high}", where=self.where
            )
        return value

    def integers(self, key: str, low: int = 1, high: int = 65536) -> tuple[int, ...]:
        value = self.get(key)
        good = isinstance(value, list) and value and len(value) <= 256
        if not good or not all(_is_int(v) and low <= v <= high for v in value):  # type: ignore[attr-defined]
            raise InputError(
                f"{key} is {value!r}, not a list of whole numbers from {low} to {high}",
                where=self.where,
            )
        assert isinstance(value, list)
        if sorted(set(value)) != value:
            raise InputError(f"{key} must be rising, without repeats", where=self.where)
        return tuple(value)

    def numbers(self, key: str, default: list[float], count: int) -> tuple[float, ...]:
        value = self.get(key, default)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(isinstance(v, int | float) and math.isfinite(v) for v in value)
        ):
            raise InputError(f"{key} must be {count} finite numbers", where=self.where)
        return tuple(float(v) for v in value)

    def activation(self) -> str:
        value = self.get("activation")
        if value not in ACTIVATIONS:
            raise InputError(
                f"activation is {value!r}, not one of {', '.join(ACTIVATIONS)}", where=self.where
            )
        return str(value)


def parse_space(text: str, where: str = "search space") -> SearchSpace:
    """Read a search space from TOML.

    Args:
        text: the TOML document.
        where: how errors name it, usually its path.

    Raises:
        InputError: not TOML, an unknown or missing key, a value out of range.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"not valid TOML: {error}", where=where) from error
    top = _Table(document, "", where)
    if top.get("schema") != SCHEMA:
        raise InputError(
            f"schema {top.get('schema')!r} is not supported, only {SCHEMA}", where=where
        )
    multiplier = top.get("width_multiplier", 1.0)
    if not isinstance(multiplier, int | float) or not 0.05 <= multiplier <= 8:
        raise InputError(f"width_multiplier is {multiplier!r}, not 0.05 to 8", where=where)

    def scaled(table: _Table, key: str) -> int:
        return make_divisible(table.integer(key) * multiplier)

    parts = {
        name: _Table(top.get(name), name, where)
        for name in ("input", "elastic", "stem", "first", "head")
    }
    stages: list[Stage] = []
    listed = top.get("stages")
    if not isinstance(listed, list) or not 1 <= len(listed) <= 32:
        raise InputError("stages must be 1 to 32 tables", where=where)
    for index, entry in enumerate(listed):
        table = _Table(entry, f"stages {index}", where)
        se = table.get("se")
        if not isinstance(se, bool):
            raise InputError(f"se is {se!r}, not true or false", where=table.where)
        stages.append(
            Stage(
                scaled(table, "width"), table.integer("stride", 1, 4), table.activation(), se,
                table.integers("depths", 1, 32),
            )
        )  # fmt: skip
    kernels = parts["elastic"].integers("kernels", 3, 7)
    if any(kernel % 2 == 0 for kernel in kernels):
        raise InputError(f"kernels {list(kernels)} must be odd", where=parts["elastic"].where)
    classes = top.integer("classes")
    labels = top.get("labels", [])
    if not isinstance(labels, list) or (labels and len(labels) != classes):
        raise InputError(f"labels must be {classes} names", where=where)
    channels = parts["input"].integer("channels", 1, 16)
    mean = parts["input"].numbers("mean", [0.485, 0.456, 0.406], channels)
    std = parts["input"].numbers("std", [0.229, 0.224, 0.225], channels)
    if min(std) <= 0:
        raise InputError("std must be positive", where=parts["input"].where)
    return SearchSpace(
        name=str(top.get("name")),
        kernels=kernels,
        expands=parts["elastic"].integers("expands", 1, 16),
        resolutions=parts["input"].integers("resolutions", 8, 2048),
        stages=tuple(stages),
        stem_width=scaled(parts["stem"], "width"),
        stem_stride=parts["stem"].integer("stride", 1, 4),
        stem_activation=parts["stem"].activation(),
        first_width=scaled(parts["first"], "width"),
        first_stride=parts["first"].integer("stride", 1, 4),
        first_activation=parts["first"].activation(),
        expand_width=scaled(parts["head"], "expand_width"),
        mix_width=scaled(parts["head"], "mix_width"),
        classes=classes,
        in_channels=channels,
        mean=mean,
        std=std,
        labels=tuple(str(label) for label in labels),
        summary=str(top.get("summary", "-")),
    )
