"""Checking a bundle again from its own files: the programs are rebuilt and compared anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeopt import devices
from edgeopt.codegen import ckernels, testvectors, verify
from edgeopt.codegen.verify import Missing
from edgeopt.graph.edges import with_edges
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.pipeline import bundle, firmware, proof
from edgeopt.pipeline.compile import Progress, no_progress
from edgeopt.pipeline.manifest import Check
from edgeopt.pipeline.source import Final

VERIFY_STAGES = ("digests", "onnxruntime", "artifact")


def verify_bundle(folder: Path, progress: Progress = no_progress) -> tuple[Check, ...]:
    """Check digests, run onnxruntime on the model, build and run the artifact.

    Raises:
        InputError: no bundle there, or a file was changed.
        ToolError: a program cannot be built or crashes.
    """
    progress("start", {"stage": "digests"})
    manifest, files = bundle.read_files(folder)
    progress("end", {"stage": "digests", "text": f"{len(files)} files are what they were"})

    progress("start", {"stage": "onnxruntime"})
    name = "model_int8.onnx" if "model_int8.onnx" in files else "model.onnx"
    imported = with_edges(import_model(parse_model(files[name])), manifest.io)
    final = Final(files[name], name, manifest.precision, imported, "")
    vectors = testvectors.load(files, str(folder))
    inputs = {
        model_name: np.concatenate(
            [interface.to_onnx(row) for row in vectors.inputs[interface_tensor]]
        )
        for (model_name, interface), interface_tensor in zip(
            imported.inputs.items(), imported.network.inputs, strict=True
        )
    }
    profile = devices.load(manifest.device)
    bare = profile.kind == "firmware"
    fixed = bare and not ckernels.isa_of(profile.target).fpu
    checks = proof.against_ort(final, inputs, vectors, fixed=fixed)
    progress("end", {"stage": "onnxruntime", "text": checks[-1].detail})

    progress("start", {"stage": "artifact"})
    engine = verify.engine_for(profile)
    if bare:
        checks += firmware.checked_again(manifest, firmware.board_of(profile), files, vectors)
    elif isinstance(engine, Missing):
        checks.append(proof.as_check(verify.skipped("torch = artifact", engine)))
    else:
        checks += proof.artifact_checks(files, manifest.name, profile, engine, vectors)
    progress("end", {"stage": "artifact", "text": checks[-1].detail})
    return tuple(checks)
