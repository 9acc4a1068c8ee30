"""Kernels to a relocatable object: every function of a network in one LLVM module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt.codegen import elf, schedules
from edgeopt.codegen.abi import ROLLED, symbol_of
from edgeopt.codegen.schedules.isa import known_isa
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

if TYPE_CHECKING:
    from edgeopt.codegen.schedules.shared import Shared

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


def compile_object(
    primfuncs: Mapping[str, Any], target: TargetSpec, shared: Iterable[Shared] = ()
) -> bytes:
    """Compile raw-pointer PrimFuncs, by C name, to one position-independent ELF object.

    Args:
        primfuncs: the functions.
        target: the processor.
        shared: what they call; it is local to the object.
    """
    made: list[tuple[bytes, tuple[str, ...]]] = [
        (compile_shared(one, target, "o"), (one.symbol,)) for one in dict.fromkeys(shared)
    ]
    made += [
        (_compile(some, target, "o", rolled=rolled), tuple(some))
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
    primfuncs, shared = _functions(keys, target, prefix, choices)
    return compile_object(primfuncs, target, shared)


def assembly(
    keys: Iterable[OpKey],
    target: TargetSpec,
    *,
    prefix: str = "",
    choices: Iterable[tuple[OpKey, Choice]] = (),
) -> list[tuple[str, tuple[str, ...]]]:
    """What `compile_kernels` compiles as assembly, with the functions that each text defines.

    Kernels whose loops stay loops are compiled with other options, so they are a text of their
    own, and so is each function that kernels share; these come first.
    """
    primfuncs, shared = _functions(keys, target, prefix, choices)
    texts: list[tuple[str, tuple[str, ...]]] = [
        (compile_shared(one, target, "s").decode(), (one.symbol,)) for one in shared
    ]
    return texts + [
        (_compile(some, target, "s", rolled=rolled).decode(), tuple(some))
        for rolled, some in _alike(primfuncs).items()
    ]


def _functions(
    keys: Iterable[OpKey],
    target: TargetSpec,
    prefix: str,
    choices: Iterable[tuple[OpKey, Choice]],
) -> tuple[dict[str, Any], tuple[Shared, ...]]:
    """PrimFuncs by symbol, and the functions they share."""
    primfuncs, shared = {}, {}
    for key, choice in dict.fromkeys((*((key, MODEL) for key in keys), *choices)):
        template = schedules.select(key, target, choice)
        if template is None:
            raise InputError(
                "no kernel template implements this", where=str(key),
                hint="kernels without a template are compiled by the fallback path",
            )  # fmt: skip
        primfuncs[prefix + symbol_of(key, choice)] = template.primfunc(key, target)
        shared.update(dict.fromkeys(template.shared(key, target)))
    return primfuncs, tuple(sorted(shared, key=lambda one: one.symbol))


def _alike(primfuncs: Mapping[str, Any]) -> dict[bool, dict[str, Any]]:
    """PrimFuncs by whether their loops stay loops."""
    alike: dict[bool, dict[str, Any]] = {}
    for symbol in sorted(primfuncs):
        alike.setdefault(ROLLED in primfuncs[symbol].attrs, {})[symbol] = primfuncs[symbol]
    return alike


@lru_cache(maxsize=256)
def compile_shared(one: Shared, target: TargetSpec, form: str) -> bytes:
    """A shared function on its own: beside its callers LLVM would copy it into them.

    Args:
        one: the function.
        target: the processor.
        form: ``o`` for an object, ``s`` for assembly.
    """
    primfunc = one.primfunc(known_isa(target))
    return _compile({one.symbol: primfunc}, target, form, rolled=ROLLED in primfunc.attrs)


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
