from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.core.lowbits import WEIGHT_BITS, largest, limits, round_again
from edgeopt.core.precision import LayerPrecision
from edgeopt.quant.elastic import ElasticQuantizer, integers_max, kurtosis, max_scale, round_max


def _weight(seed: int, outputs: int = 6, inputs: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(outputs, 1, 1, 1, generator=generator) * 3
    return torch.randn(outputs, inputs, 1, 1, generator=generator) * spread


def _fitted(weight: torch.Tensor) -> ElasticQuantizer:
    quantizer = ElasticQuantizer(weight.shape[0])
    quantizer.fit(weight)
    return quantizer


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), bits=st.sampled_from(WEIGHT_BITS),
    shift=st.floats(-1.5, 1.5, width=32), outputs=st.integers(1, 6), inputs=st.integers(1, 9),
)  # fmt: skip
def test_integers_are_those_of_core(
    seed: int, bits: int, shift: float, outputs: int, inputs: int
) -> None:
    weight = _weight(seed)
    quantizer = _fitted(weight)
    with torch.no_grad():  # as if trained: some weights clip, scales and steps are odd
        for parameter in quantizer.parameters():
            parameter += shift * torch.rand(parameter.shape)
    part = weight[:outputs, :inputs]
    scale = quantizer.scale(outputs).numpy()
    wide = scale.reshape(-1, 1, 1, 1)
    stored = np.clip(np.rint(part.numpy() / wide), -127, 127).astype(np.int8)
    expected = round_again(
        stored, bits, None if bits == 8 else quantizer.step(bits, outputs).numpy()
    )
    whole, steps = quantizer.integers(part, bits)
    assert np.array_equal(whole.numpy(), expected)
    real = quantizer(part, bits).detach()
    assert torch.equal(real, whole * steps.view(-1, 1, 1, 1))
    # a slice of what was rounded is the rounded slice: one set of integers for all subnets
    assert torch.equal(real, quantizer(weight, bits)[:outputs, :inputs].detach())


FORMS = [
    LayerPrecision(granularity="tensor"),
    LayerPrecision(granularity="tensor", symmetric=False),
    LayerPrecision(symmetric=False),
    LayerPrecision(granularity="group", group=4),
    LayerPrecision(granularity="group", group=4, symmetric=False),
]


def _name(form: LayerPrecision) -> str:
    return f"{form.granularity}{form.group or ''}{'' if form.symmetric else '-zero'}"


@pytest.mark.parametrize("form", FORMS, ids=_name)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31), bits=st.sampled_from(WEIGHT_BITS),
    outputs=st.integers(1, 6), inputs=st.integers(1, 9), kernel=st.sampled_from([1, 3]),
)  # fmt: skip
def test_integers_of_every_form_are_those_of_core(
    form: LayerPrecision, seed: int, bits: int, outputs: int, inputs: int, kernel: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 9, kernel, kernel, generator=generator) + 0.4
    quantizer = ElasticQuantizer(6, 9, form)
    quantizer.fit(weight)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter += 0.3 * torch.rand(parameter.shape, generator=generator)
    part = weight[:outputs, :inputs]

    def wide(values: torch.Tensor) -> np.ndarray:
        return quantizer.spread(values, part).expand(part.shape).numpy()

    def zeros(bits: int) -> np.ndarray | None:
        return None if form.symmetric else wide(quantizer.zero(bits, outputs))

    low, high = limits(8, form.symmetric)
    zero = 0 if form.symmetric else zeros(8)
    eight = np.clip(np.rint(part.numpy() / wide(quantizer.scale(outputs))) + zero, low, high)
    steps = None if bits == 8 else wide(quantizer.step(bits, outputs))
    given = (eight - zero).astype(np.int16)
    if bits == 8:
        expected = given
    else:
        found, own = round_again(given, bits, steps, zeros(bits)), zeros(bits)
        assert limits(bits, form.symmetric)[0] <= found.min()
        expected = found if own is None else found - own
    whole, scale = quantizer.integers(part, bits)
    assert np.array_equal(whole.numpy(), expected)
    real = quantizer(part, bits).detach()
    assert torch.equal(real, whole * quantizer.spread(scale, part))
    assert torch.equal(real, quantizer(weight, bits)[:outputs, :inputs].detach())


def test_finer_scales_and_zero_points_lose_less() -> None:
    weight = _weight(2, 32, 64) + 0.5

    def loss(**form: object) -> float:
        quantizer = ElasticQuantizer(32, 64, LayerPrecision(**form))  # type: ignore[arg-type]
        quantizer.fit(weight)
        return float((quantizer(weight, 3) - weight).detach().square().mean())

    channel = loss()
    assert loss(granularity="group", group=8) < channel < loss(granularity="tensor")
    assert loss(symmetric=False) < channel


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_scales_of_every_form_learn(form: LayerPrecision) -> None:
    weight = _weight(7)
    quantizer = ElasticQuantizer(6, 9, form)
    quantizer.fit(weight)
    target = torch.randn(weight.shape, generator=torch.Generator().manual_seed(8))
    for bits in (8, 2):
        quantizer.zero_grad()
        out = quantizer(weight, bits)
        (out * target).sum().backward()
        learned = quantizer.log_scale if bits == 8 else quantizer.log_step2
        assert learned.grad is not None and learned.grad.shape == quantizer.log_scale.shape
        # The sum over the weights of a scale of what each would ask for.
        whole, scale = quantizer.integers(weight, bits)
        wide = quantizer.spread(scale, weight)
        divided = weight / quantizer.spread(quantizer.scale(), weight)
        if bits == 2:
            divided = quantizer.integers(weight, 8)[0] / quantizer.spread(quantizer.step(2), weight)
        low, high = limits(bits, form.symmetric)
        zero = quantizer.spread(quantizer.zero(bits), weight)
        inside = (divided >= low - zero - 0.5) & (divided <= high - zero + 0.5)
        if bits == 2 and form.symmetric:  # in halves of a step
            divided = 2 * divided
            inside = divided.abs() <= 4
        asked = target * torch.where(inside, whole - divided, whole) * wide
        probe = quantizer.spread(torch.arange(learned.numel()).view(learned.shape), weight)
        expected = torch.zeros(learned.numel()).index_add(
            0, probe.expand(weight.shape).flatten(), asked.flatten()
        )
        assert torch.allclose(learned.grad.flatten(), expected, rtol=1e-4, atol=1e-5)


def test_double_rounding_is_the_untrained_case() -> None:
    weight = _weight(1)
    quantizer = ElasticQuantizer(6)
    with torch.no_grad():
        quantizer.log_scale.copy_(max_scale(weight).log())
    stored = quantizer.integers(weight, 8)[0].numpy().astype(np.int8)
    for bits in (4, 3, 2):
        # exp(log(2 ** n)) may be off by one in the last place, ties may then go the other way
        difference = quantizer.integers(weight, bits)[0].numpy() - round_again(stored, bits)
        assert np.abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.05


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_fitted_steps_lose_less_than_double_rounding(bits: int) -> None:
    weight = _weight(2, 32, 64)
    fitted, plain = _fitted(weight), ElasticQuantizer(32)
    with torch.no_grad():
        plain.log_scale.copy_(fitted.log_scale)

    def loss(quantizer: ElasticQuantizer) -> float:
        return float((quantizer(weight, bits) - weight).detach().square().mean())

    assert loss(fitted) < 0.95 * loss(plain)
    assert uses_all(fitted, weight, bits)


def uses_all(quantizer: ElasticQuantizer, weight: torch.Tensor, bits: int) -> bool:
    whole = quantizer.integers(weight, bits)[0]
    every = range(-largest(bits), largest(bits) + 1, 2 if bits == 2 else 1)
    return set(whole.unique().tolist()) == set(every)


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_gradients_are_those_of_learned_steps(bits: int) -> None:
    """Straight through where a weight is not clipped, LSQ for the scale that is learned."""
    weight = _weight(3).requires_grad_(True)
    quantizer = _fitted(weight.detach())
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter -= 0.3  # clips some
    out = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    (quantizer(weight, bits) * out).sum().backward()
    bound = largest(bits)
    whole, scale = quantizer.integers(weight.detach(), bits)
    wide = scale.view(-1, 1, 1, 1)
    divided = weight.detach() / wide
    if bits < 8:
        eight = quantizer.scale().view(-1, 1, 1, 1)
        divided = (weight.detach() / eight).round().clamp(-127, 127) * eight / wide
    inside = divided.abs() <= bound + (1 if bits == 2 else 0.5)  # half a step
    assert not inside.all()
    assert weight.grad is not None
    assert torch.equal(weight.grad, out * inside)
    learned = quantizer.log_scale if bits == 8 else quantizer.get_parameter(f"log_step{bits}")
    expected = (out * (whole - divided * inside) * wide).flatten(1).sum(1)
    assert learned.grad is not None
    assert torch.allclose(learned.grad, expected, rtol=1e-4, atol=1e-5)
    others = [p for p in quantizer.parameters() if p is not learned]
    assert all(p.grad is None or not p.grad.any() for p in others)


def test_depthwise_weights_follow_their_largest() -> None:
    weight = _weight(5).requires_grad_(True)
    whole, scale = integers_max(weight.detach())
    assert torch.equal(whole.abs().flatten(1).amax(1), torch.full((6,), 127.0))
    real = round_max(weight)
    assert torch.equal(real.detach(), whole * scale.view(-1, 1, 1, 1))
    assert float((real - weight).detach().abs().max()) <= float(scale.max()) / 2 * 1.001
    real.sum().backward()
    assert weight.grad is not None and bool((weight.grad == 1).all())


def test_a_dead_channel_stays_zero() -> None:
    weight = _weight(6)
    weight[2] = 0
    quantizer = _fitted(weight)
    for bits in WEIGHT_BITS:
        real = quantizer(weight, bits).detach()
        assert torch.isfinite(real).all()
        assert real[2].abs().max() < 1e-6 if bits == 2 else not real[2].any()


def test_kurtosis_tells_distributions_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(20_000, generator=generator)
    normal = torch.randn(20_000, generator=generator)
    assert float(kurtosis(flat)) == pytest.approx(1.8, abs=0.05)
    assert float(kurtosis(normal)) == pytest.approx(3.0, abs=0.2)
    assert float(kurtosis(5 * normal + 1)) == pytest.approx(float(kurtosis(normal)), rel=1e-3)
