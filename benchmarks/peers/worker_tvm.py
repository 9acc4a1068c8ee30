"""TVM's own way from ONNX to this processor: its default pipelines, nothing tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from worker import Array, Peer, fit, serve


class Tvm(Peer):
    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        target = out / f"{precision}.so"
        if not target.exists():
            import onnx
            import tvm
            from tvm import relax
            from tvm.relax.frontend.onnx import from_onnx

            model = onnx.load(folder / f"{precision}.onnx")
            module = from_onnx(model, keep_params_in_input=False)
            cpu = tvm.get_global_func("target.llvm_get_system_cpu")()
            place = tvm.target.Target({"kind": "llvm", "mcpu": str(cpu), "num-cores": 1})
            with place, tvm.transform.PassContext(opt_level=3):
                module = relax.get_pipeline("zero")(module)
                built = relax.build(module, target=place)
            built.export_library(str(target))
        return target, "relax zero pipeline, default cpu build"

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        import onnx
        import tvm
        from tvm import relax

        device = tvm.cpu()
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(file)), device)
        model = onnx.load(file.parent.parent / f"{precision}.onnx", load_external_data=False)
        item = model.graph.input[0].type.tensor_type
        shape = tuple(d.dim_value for d in item.shape.dim)
        value = fit(image, shape, onnx.helper.tensor_dtype_to_np_dtype(item.elem_type))
        self._value = tvm.runtime.tensor(value, device)
        return f"TVM {tvm.__version__}"

    def run(self) -> None:
        self._result = self._machine["main"](self._value)

    def output(self) -> Array:
        result = self._result
        return np.asarray((result if hasattr(result, "numpy") else result[0]).numpy())


if __name__ == "__main__":
    serve(Tvm())
