"""IREE's llvm-cpu backend, compiled for this processor, run on the caller's thread if alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from worker import Array, Peer, fit, serve

FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-level=O3",
)
#: Faster where they compile; the compiler gives up on some depthwise convolutions with them.
TILED = (*FLAGS, "--iree-opt-data-tiling")
IM2COL = (*TILED, "--iree-global-opt-use-im2col-for-convs")


class Iree(Peer):
    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        tools = Path(sys.executable).parent
        target = out / f"{precision}.vmfb"
        if not target.exists():
            middle = out / f"{precision}.mlir"
            self._call(tools / "iree-import-onnx", folder / f"{precision}.onnx", "-o", middle,
                       "--opset-version", "18")  # fmt: skip
            compiler = tools / "iree-compile"
            for used in (IM2COL, TILED, FLAGS):
                try:
                    self._call(compiler, middle, *used, "-o", target)
                    break
                except RuntimeError:
                    if used is FLAGS:
                        raise
            target.with_suffix(".flags").write_text(" ".join(used))
        said = target.with_suffix(".flags")
        flags = said.read_text() if said.exists() else " ".join(IM2COL)
        return target, f"iree-compile {flags}"

    def _call(self, *command: str | Path) -> None:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            text = (errors or done.stderr.splitlines() or ["no reason given"])[0]
            raise RuntimeError(f"{Path(command[0]).name}: {text}")

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        import onnx
        from iree import runtime

        if threads > 1:
            runtime.flags.parse_flags(f"--task_topology_max_group_count={threads}")
        config = runtime.Config("local-task" if threads > 1 else "local-sync")
        context = runtime.SystemContext(config=config)
        vm_module = runtime.VmModule.mmap(config.vm_instance, str(file))
        context.add_vm_module(vm_module)
        functions = [n for n in vm_module.function_names if not n.startswith("__")]
        self._context = context
        name = next(n for n in functions if not n.endswith("$async"))
        self._function = context.modules[vm_module.name][name]
        model = onnx.load(file.parent.parent / f"{precision}.onnx", load_external_data=False)
        item = model.graph.input[0].type.tensor_type
        shape = tuple(d.dim_value for d in item.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.elem_type)
        value = fit(image, shape, dtype)
        self._value = runtime.asdevicearray(config.device, value)
        return f"IREE {version('iree-base-runtime')}"

    def run(self) -> None:
        self._result = self._function(self._value)

    def output(self) -> Array:
        return np.asarray(self._result.to_host())


if __name__ == "__main__":
    serve(Iree())
