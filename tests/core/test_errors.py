from __future__ import annotations

import pytest

from edgeopt.core import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InputError, 2),
        (errors.InfeasibleError, 3),
        (errors.ToolError, 4),
        (errors.BoardError, 5),
    ],
)
def test_exit_codes(kind: type[errors.EdgeoptError], code: int) -> None:
    assert kind("x").exit_code == code


def test_text_has_what_where_and_hint() -> None:
    error = errors.InputError("no such device", where="--device", hint="try rpi4")
    assert str(error) == "--device: no such device\n  hint: try rpi4"


def test_suggestions() -> None:
    assert errors.suggest("rpi44", ["rpi4", "local"]) == "did you mean rpi4?"
    assert errors.suggest("zzz", ["b", "a"], noun="device") == "known devices: a, b"
    assert errors.suggest("zzz", []) == "no name is known here"
