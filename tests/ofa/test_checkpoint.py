from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.checkpoint import (
    load_ofa_state_dict,
    load_torch_checkpoint,
    load_weights,
    save_weights,
)
from edgeopt.ofa.spaces import load_space
from edgeopt.ofa.supernet import Supernet
from tests.ofa.conftest import randomized


def test_weights_read_back(tiny: SearchSpace, tmp_path: Path) -> None:
    net = randomized(tiny)
    save_weights(net, tmp_path / "w.npz")
    again = load_weights(tiny, tmp_path / "w.npz")
    assert not again.training
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(again.state_dict()[name], tensor), name


def test_half_precision_is_smaller_and_close(tiny: SearchSpace, tmp_path: Path) -> None:
    net = randomized(tiny)
    save_weights(net, tmp_path / "w.npz")
    save_weights(net, tmp_path / "h.npz", half=True)
    assert (tmp_path / "h.npz").stat().st_size < 0.75 * (tmp_path / "w.npz").stat().st_size
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, half = net(x), load_weights(tiny, tmp_path / "h.npz")(x)
    assert 0 < float((full - half).abs().max()) < 0.02 * float(full.abs().max())


def test_torch_checkpoints(tiny: SearchSpace, tmp_path: Path) -> None:
    state = randomized(tiny).state_dict()
    for value in (state, {"state_dict": state}, {"model": state, "epoch": 3}):
        torch.save(value, tmp_path / "c.pth")
        net = load_torch_checkpoint(tiny, tmp_path / "c.pth")
        assert torch.equal(net.classifier.linear.bias, state["classifier.linear.bias"])


class _Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("/nonexistent/edgeopt"),))  # type: ignore[return-value]


def test_objects_in_a_torch_checkpoint_are_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    torch.save({"a": _Payload()}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="not a checkpoint of tensors only"):
        load_torch_checkpoint(tiny, tmp_path / "c.pth")
    (tmp_path / "c.pth").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(InputError, match="not a checkpoint of tensors only"):
        load_torch_checkpoint(tiny, tmp_path / "c.pth")
    torch.save([torch.zeros(1)], tmp_path / "c.pth")
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        load_torch_checkpoint(tiny, tmp_path / "c.pth")
    with pytest.raises(InputError, match="no such checkpoint"):
        load_torch_checkpoint(tiny, tmp_path / "none.pth")


def test_wrong_keys_are_listed_with_near_misses(tiny: SearchSpace) -> None:
    state = dict(randomized(tiny).state_dict())
    state["classifier.linear.wieght"] = state.pop("classifier.linear.weight")
    state["first_conv.conv.weight"] = torch.zeros(8, 1, 3, 3)
    with pytest.raises(InputError) as caught:
        load_ofa_state_dict(tiny, state, where="a.pth")
    text = str(caught.value)
    assert text.startswith("a.pth: does not fit the space tiny (")
    assert "1 missing: classifier.linear.weight" in text
    assert "1 unexpected: classifier.linear.wieght" in text
    assert (
        "1 of the wrong shape: first_conv.conv.weight [8, 1, 3, 3] instead of [8, 3, 3, 3]" in text
    )
    assert "did you mean classifier.linear.weight" in text


def test_a_checkpoint_of_another_space_is_summarised(tiny: SearchSpace) -> None:
    state = Supernet(load_space("cifar")).state_dict()
    with pytest.raises(InputError, match=r"unexpected: .* and \d+ more"):
        load_ofa_state_dict(tiny, state)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "classifier.linear.bias",
            torch.full((4,), torch.nan),
            "classifier.linear.bias holds values",
        ),
        ("first_conv.bn.running_var", torch.full((8,), -1.0), "holds negative variances"),
        (
            "classifier.linear.bias",
            torch.zeros(4, dtype=torch.int64),
            "is torch.int64, not a float",
        ),
        ("classifier.linear.bias", "text", "is str, not a floating-point tensor"),
        ("classifier.linear.bias", np.zeros(4, np.int8), "is int8, not floating point"),
    ],
)
def test_bad_values_are_refused(tiny: SearchSpace, key: str, value: object, message: str) -> None:
    state: dict[str, object] = dict(randomized(tiny).state_dict())
    state[key] = value
    with pytest.raises(InputError, match=message):
        load_ofa_state_dict(tiny, state)


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_bad_weight_files_are_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * (64 << 20))
    header = {"__header__": np.array('{"format": "edgeopt-supernet/1", "space": "cifar"}')}
    cases: list[tuple[bytes, str]] = [
        (b"nonsense", "not a readable weights file"),
        (_npz(a=np.array([object()], dtype=object)), "not a readable weights file"),
        (bomb.getvalue(), "unpacks to 67108864 bytes, more than"),
        (_npz(**header), "holds weights of space 'cifar', not 'tiny'"),
        (_npz(__header__=np.array("{}")), "the header does not say edgeopt-supernet/1"),
        (_npz(__header__=np.array("{")), "the header is not JSON"),
        (_npz(), "missing: first_conv.conv.weight"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_weights(tiny, path)
    save_weights(randomized(tiny), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="not a readable weights file"):
        load_weights(tiny, path)
    with pytest.raises(InputError, match="no such weights file"):
        load_weights(tiny, tmp_path / "none.npz")
