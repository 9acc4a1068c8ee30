"""Kernels to a relocatable object: every function of a network in one LLVM module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeopt.codegen import schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec


def tvm_target(target: TargetSpec) -> Any:
    """The TVM target of a processor."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.mcpu,
            "mattr": [f"+{feature}" for feature in sorted(target.features)],
        }
    )


def compile_object(primfuncs: Mapping[str, Any], target: TargetSpec) -> bytes:
    """Compile raw-pointer PrimFuncs, by C name, to one position-independent ELF object."""
    return _emit(primfuncs, target, "o")


def compile_kernels(
    keys: Iterable[OpKey],
    target: TargetSpec,
    *,
    prefix: str = "",
    assembly: bool = False,
    choices: Iterable[tuple[OpKey, Choice]] = (),
) -> bytes:
    """Compile the kernels of template keys to one object (or assembly).

    Args:
        keys: kernels tiled as their templates' models say.
        target: the processor.
        prefix: in front of each function's symbol.
        assembly: text instead of an object.
        choices: kernels tiled otherwise; a kernel may be among them several times.

    Raises:
        InputError: no template implements a key; it belongs to the fallback path.
    """
    primfuncs = {}
    for key, choice in dict.fromkeys((*((key, MODEL) for key in keys), *choices)):
        template = schedules.select(key, target, choice)
        if template is None:
            raise InputError(
                "no kernel template implements this", where=str(key),
                hint="kernels without a template are compiled by the fallback path",
            )  # fmt: skip
        primfuncs[prefix + symbol_of(key, choice)] = template.primfunc(key, target)
    return _emit(primfuncs, target, "s" if assembly else "o")


def _emit(primfuncs: Mapping[str, Any], target: TargetSpec, form: str) -> bytes:
    import tvm
    from tvm import tirx

    built_for = tvm_target(target)
    functions = {}
    for symbol in sorted(primfuncs):
        primfunc = primfuncs[symbol].with_attr("global_symbol", symbol)
        functions[symbol] = primfunc.with_attr("target", built_for)
    module = tvm.IRModule(functions)
    module = tirx.transform.LowerIntrin()(module)
    library = tvm.get_global_func("target.build.llvm")(module, built_for)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"kernels.{form}"
        library.write_to_file(str(path), form)
        return path.read_bytes()
