"""Kernels to a relocatable object: every function of a network in one LLVM module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeopt.codegen import elf, schedules
from edgeopt.codegen.abi import ROLLED, symbol_of
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

#: LLVM unrolls loops of constant length whose unrolled body has at most so many instructions, 300
#: where nothing is said. Of its options this is the one that a value given through TVM changes; 0
#: gives the code that 60 gives.
_ROLLED = ("-unroll-threshold-aggressive:uint=60",)


def tvm_target(target: TargetSpec, *, rolled: bool = False) -> Any:
    """The TVM target of a processor; ``rolled`` leaves loops as they are."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.mcpu,
            "mattr": [f"+{feature}" for feature in sorted(target.features)],
            **({"cl-opt": list(_ROLLED)} if rolled else {}),
        }
    )


def compile_object(primfuncs: Mapping[str, Any], target: TargetSpec) -> bytes:
    """Compile raw-pointer PrimFuncs, by C name, to one position-independent ELF object."""
    made = [
        (_compile(some, target, "o", rolled=rolled), some)
        for rolled, some in _alike(primfuncs).items()
    ]
    if len(made) == 1:
        return made[0][0]
    return elf.join([(data, {symbol: symbol for symbol in some}) for data, some in made])


def compile_kernels(
    keys: Iterable[OpKey],
    target: TargetSpec,
    *,
    prefix: str = "",
    choices: Iterable[tuple[OpKey, Choice]] = (),
) -> bytes:
    """Compile the kernels of template keys to one object.

    Args:
        keys: kernels tiled as their templates' models say.
        target: the processor.
        prefix: in front of each function's symbol.
        choices: kernels tiled otherwise; a kernel may be among them several times.

    Raises:
        InputError: no template implements a key; it belongs to the fallback path.
    """
    return compile_object(_primfuncs(keys, target, prefix, choices), target)


def assembly(
    keys: Iterable[OpKey],
    target: TargetSpec,
    *,
    prefix: str = "",
    choices: Iterable[tuple[OpKey, Choice]] = (),
) -> list[tuple[str, tuple[str, ...]]]:
    """What `compile_kernels` compiles as assembly, with the functions that each text defines.

    Kernels whose loops stay loops are compiled with other options, so they are a text of their own.
    """
    primfuncs = _primfuncs(keys, target, prefix, choices)
    return [
        (_compile(some, target, "s", rolled=rolled).decode(), tuple(some))
        for rolled, some in _alike(primfuncs).items()
    ]


def _primfuncs(
    keys: Iterable[OpKey],
    target: TargetSpec,
    prefix: str,
    choices: Iterable[tuple[OpKey, Choice]],
) -> dict[str, Any]:
    primfuncs = {}
    for key, choice in dict.fromkeys((*((key, MODEL) for key in keys), *choices)):
        template = schedules.select(key, target, choice)
        if template is None:
            raise InputError(
                "no kernel template implements this", where=str(key),
                hint="kernels without a template are compiled by the fallback path",
            )  # fmt: skip
        primfuncs[prefix + symbol_of(key, choice)] = template.primfunc(key, target)
    return primfuncs


def _alike(primfuncs: Mapping[str, Any]) -> dict[bool, dict[str, Any]]:
    """PrimFuncs by whether their loops stay loops."""
    alike: dict[bool, dict[str, Any]] = {}
    for symbol in sorted(primfuncs):
        alike.setdefault(ROLLED in primfuncs[symbol].attrs, {})[symbol] = primfuncs[symbol]
    return alike


def _compile(primfuncs: Mapping[str, Any], target: TargetSpec, form: str, *, rolled: bool) -> bytes:
    import tvm
    from tvm import tirx

    built_for = tvm_target(target, rolled=rolled)
    functions = {
        symbol: primfunc.with_attr("global_symbol", symbol).with_attr("target", built_for)
        for symbol, primfunc in primfuncs.items()
    }
    module = tirx.transform.LowerIntrin()(tvm.IRModule(functions))
    library = tvm.get_global_func("target.build.llvm")(module, built_for)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"kernels.{form}"
        library.write_to_file(str(path), form)
        return path.read_bytes()
