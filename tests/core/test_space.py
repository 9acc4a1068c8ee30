from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.errors import InputError
from edgeopt.core.space import SubnetConfig, make_divisible, parse_space
from edgeopt.ofa.spaces import load_space, space_names
from tests.ofa.conftest import TINY

numbers = st.lists(st.integers(0, 999), min_size=1, max_size=30).map(tuple)


def test_make_divisible_loses_at_most_a_tenth() -> None:
    assert [make_divisible(v) for v in (1, 8, 10, 12, 15, 60, 240, 100)] == [
        8, 8, 16, 16, 16, 64, 240, 104,
    ]  # fmt: skip
    for value in range(8, 400):
        assert make_divisible(value) % 8 == 0
        assert make_divisible(value) >= 0.9 * value


@given(numbers, numbers, numbers, st.integers(0, 999))
def test_text_of_a_subnet_reads_back(
    kernels: tuple[int, ...], expands: tuple[int, ...], depths: tuple[int, ...], size: int
) -> None:
    config = SubnetConfig(kernels, expands, depths, size)
    assert SubnetConfig.parse(str(config)) == config
    assert SubnetConfig.from_ofa(config.to_ofa()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a subnet"),
        ("r32-d1-k3", "is not a subnet"),
        ("r32-d1-e3-k3", "is not a subnet"),
        ("r32-d1-kx-e3", "'kx' is not a list of numbers"),
        ("r32-d1-k3.-e3", "is not a list of numbers"),
        ("r32-d-1-k3-e3", "is not a subnet"),
        ("r32.48-d1-k3-e3", "must name one resolution"),
        ("r32-d1-k\u0663-e3", "is not a list of numbers"),
    ],
)
def test_text_that_is_no_subnet_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SubnetConfig.parse(text)


def test_ofa_dictionary_accepts_the_authors_forms() -> None:
    base = {"ks": [3], "e": [2], "d": [1]}
    assert SubnetConfig.from_ofa({**base, "image_size": 160}).resolution == 160
    assert SubnetConfig.from_ofa({**base, "r": [176]}).resolution == 176
    assert SubnetConfig.from_ofa(base, resolution=32).resolution == 32
    with pytest.raises(InputError, match="no resolution"):
        SubnetConfig.from_ofa(base)
    with pytest.raises(InputError, match="'ks' must be a list"):
        SubnetConfig.from_ofa({**base, "ks": 3, "r": 32})


def test_shipped_spaces_load() -> None:
    assert space_names() == ("cifar", "ofa_mbv3")
    ofa = load_space("ofa_mbv3")
    assert ofa.block_count == 20
    assert [stage.width for stage in ofa.stages] == [24, 40, 80, 112, 160]
    assert [stage.stride for stage in ofa.stages] == [2, 2, 2, 1, 2]
    assert (ofa.expand_width, ofa.mix_width, len(ofa.resolutions)) == (960, 1280, 25)
    # (9^2 + 9^3 + 9^4)^5 subnets a resolution, as in the paper
    assert ofa.size == 25 * (81 + 729 + 6561) ** 5
    assert load_space("cifar").max_config().resolution == 32


def test_unknown_space_suggests() -> None:
    with pytest.raises(InputError, match="unknown search space 'cifr'") as caught:
        load_space("cifr")
    assert "did you mean cifar?" in caught.value.hint


def test_layout_resolves_channels() -> None:
    space = parse_space(TINY)
    config = SubnetConfig((7, 3, 5, 3, 3), (3, 2, 2, 2, 2), (1, 1), 16)
    layout = space.layout(space.validate(config))
    first, one, two = layout.blocks
    assert (first.index, first.expand, first.residual) == (0, None, False)
    assert (one.index, one.kernel, one.mid_channels, one.residual) == (1, 7, 24, True)
    # stage 1 starts at block 2 of the space although stage 0 uses only one of its two blocks
    assert (two.index, two.kernel, two.stride, two.se_channels) == (3, 5, 2, 8)
    assert (two.in_channels, two.mid_channels, two.out_channels) == (8, 16, 16)


def test_canonical_ignores_unused_blocks() -> None:
    space = parse_space(TINY)
    a = SubnetConfig((7, 7, 5, 7, 7), (3, 3, 2, 3, 3), (1, 1), 16)
    b = SubnetConfig((7, 3, 5, 3, 5), (3, 2, 2, 2, 3), (1, 1), 16)
    assert space.canonical(a) == space.canonical(b)
    assert space.layout(a) == space.layout(b)
    assert space.canonical(space.canonical(a)) == space.canonical(a)


def test_size_counts_canonical_subnets() -> None:
    text = TINY.replace("[3, 5, 7]", "[3, 5]").replace("depths = [1, 2, 3]", "depths = [1, 2]")
    space = parse_space(text)
    rng = random.Random(0)
    seen = {space.sample(rng) for _ in range(40_000)}
    assert space.size == ((4 + 16) ** 2) * 2
    assert len(seen) == space.size


@given(st.integers(0, 2**32))
def test_samples_are_in_the_space(seed: int) -> None:
    space = parse_space(TINY)
    config = space.sample(random.Random(seed))
    assert space.validate(config) == space.canonical(config) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kernels", (3, 3, 4, 3, 3)), "kernel of block 2 is 4, not one of 3, 5, 7"),
        (("kernels", (3, 3)), "kernels has 2 entries, not 5"),
        (("expands", (2, 9, 2, 2, 2)), "expand of block 1 is 9"),
        (("depths", (1, 4)), "depth of stage 1 is 4, not one of 1, 2, 3"),
        (("resolution", 33), "resolution is 33, not one of 12, 16"),
    ],
)
def test_subnet_outside_the_space_is_refused(change: tuple[str, object], message: str) -> None:
    from dataclasses import replace

    space = parse_space(TINY)
    with pytest.raises(InputError, match=message):
        space.validate(replace(space.max_config(), **{change[0]: change[1]}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 9", "schema 9 is not supported"),
        ("schema = 1", "schema =", "not valid TOML"),
        ("[elastic]", "[elastc]", "unknown key 'elastc'"),
        ("se = true", "see = true", r"\[stages 1\]: unknown key 'see'"),
        ("se = true", 'se = "yes"', "se is 'yes', not true or false"),
        ("width = 16\n", "width = 0\n", "width is 0, not a whole number"),
        ("[3, 5, 7]", "[3, 4]", "must be odd"),
        ("[3, 5, 7]", "[5, 3]", "must be rising"),
        ("[3, 5, 7]", "[]", "not a list of whole numbers"),
        ('activation = "relu"', 'activation = "gelu"', "activation is 'gelu', not one of relu"),
        ("std = [0.25, 0.2, 0.3]", "std = [0.25, 0.0, 0.3]", "std must be positive"),
        ("std = [0.25, 0.2, 0.3]", "std = [0.25]", "std must be 3 finite numbers"),
        ("classes = 4", 'classes = 4\nlabels = ["a"]', "labels must be 4 names"),
        ("classes = 4", "classes = 4\nwidth_multiplier = 99", "width_multiplier is 99"),
        ("classes = 4", "", "key 'classes' is missing"),
    ],
)
def test_bad_space_files_are_refused(old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(InputError, match=message) as caught:
        parse_space(TINY.replace(old, new), "my.toml")
    assert caught.value.where.startswith("my.toml")


def test_width_multiplier_scales_every_width() -> None:
    half = parse_space(TINY.replace("classes = 4", "classes = 4\nwidth_multiplier = 2.0"))
    assert [stage.width for stage in half.stages] == [16, 32]
    assert (half.stem_width, half.first_width, half.expand_width, half.mix_width) == (
        16,
        16,
        48,
        32,
    )
