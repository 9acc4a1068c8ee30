"""What was learnt of a core, as a file: readable factors, their covariance, error and origin."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edgeopt.core.errors import InputError, suggest
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.latency.coremodel import CoreFit, Trust
from edgeopt.latency.prior import LATER, NAMES, deviations
from edgeopt.latency.update import Belief

FORMAT = "edgeopt-core-fit"
SCHEMA = 1
SUFFIX = ".core.json"
MAX_BYTES = 4 * 1024 * 1024
MAX_LOG = 50.0  # natural logarithms: more is no factor that anything has
_DIGITS = 5


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    schema: int
    device: str
    fingerprint: str
    runtime: str
    threads: int
    origin: str
    trust: Trust
    noise: float
    kernels: dict[str, int]
    factors: dict[str, tuple[float, float]]  # natural logarithm, standard deviation
    correlations: list[list[float]]  # rows of the lower triangle, the diagonal left out


def file_name(device: str, runtime: str, threads: int) -> str:
    """Threads are ``x`` where nobody says."""
    return f"{device}.{runtime}.{threads or 'x'}t{SUFFIX}"


def save_fit(fit: CoreFit, path: Path) -> None:
    """Write a fit, replacing ``path`` in one step.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    deviation = np.sqrt(np.diag(fit.belief.covariance))
    correlation = fit.belief.covariance / np.outer(deviation, deviation)
    document = _Document(
        format=FORMAT,
        schema=SCHEMA,
        device=fit.device,
        fingerprint=fit.fingerprint,
        runtime=fit.runtime,
        threads=fit.threads,
        origin=fit.origin,
        trust=fit.trust,
        noise=round(fit.belief.noise, _DIGITS),
        kernels=dict(fit.classes),
        factors={
            name: (round(float(mean), _DIGITS), round(float(sd), _DIGITS))
            for name, mean, sd in zip(NAMES, fit.belief.mean, deviation, strict=True)
        },
        correlations=[
            [round(float(value), _DIGITS) for value in row[:index]]
            for index, row in enumerate(correlation)
        ][1:],
    )
    lines = []
    for name, raw in msgspec.to_builtins(document).items():
        if name == "correlations":
            rows = ",\n  ".join(msgspec.json.encode(row).decode() for row in raw)
            lines.append(f' "{name}": [\n  {rows}\n ]')
        elif name == "factors":
            rows = ",\n  ".join(
                f"{msgspec.json.encode(k).decode()}: {msgspec.json.encode(v).decode()}"
                for k, v in raw.items()
            )
            lines.append(f' "{name}": {{\n  {rows}\n }}')
        else:
            lines.append(f' "{name}": {msgspec.json.encode(raw).decode()}')
    write_atomic(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_fit(path: Path) -> CoreFit:
    """Read a fit strictly.

    Raises:
        InputError: naming what is not as it must be.
    """
    data = read_bytes(path, max_bytes=MAX_BYTES, noun="core fit")
    hint = "calibrate again with `edgeopt table calibrate`, or remove it"
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.DecodeError as error:
        raise InputError(f"not a core fit: {error}", where=str(path), hint=hint) from error

    def refuse(what: str) -> InputError:
        return InputError(what, where=str(path), hint=hint)

    if document.format != FORMAT:
        raise refuse(f"format is {document.format!r}, not {FORMAT!r}")
    if document.schema != SCHEMA:
        raise refuse(f"schema {document.schema} is not known; this edgeopt reads {SCHEMA}")
    trust = document.trust
    if not (document.threads >= 0 < document.noise <= MAX_LOG and 0 < trust.widen <= MAX_LOG):
        raise refuse("threads, noise or widen cannot be")
    if trust.rows < 1 or trust.mape < 0:
        raise refuse("rows and mape cannot be")
    names = list(document.factors)
    for name in names:
        if name not in NAMES:
            raise refuse(f"unknown factor {name[:60]!r}: {suggest(name[:60], NAMES)}")
    missing = [name for name in NAMES if name not in (*names, *LATER)]
    if missing:
        raise refuse(f"factor {missing[0]!r} is missing")
    if [len(row) for row in document.correlations] != list(range(1, len(names))):
        raise refuse("the correlations do not match the factors")
    device, own = deviations(document.runtime, document.threads)
    mean, spread = np.zeros(len(NAMES)), np.hypot(device, own)
    correlation = np.eye(len(NAMES))
    place = [NAMES.index(name) for name in names]
    for index, name in zip(place, names, strict=True):
        mean[index], spread[index] = document.factors[name]
    for row, values in enumerate(document.correlations, start=1):
        for column, value in enumerate(values):
            correlation[place[row], place[column]] = value
            correlation[place[column], place[row]] = value
    covariance = correlation * np.outer(spread, spread)
    if np.abs(mean).max() > MAX_LOG or not 0 < spread.min() <= spread.max() <= MAX_LOG:
        raise refuse(f"factors must be between -{MAX_LOG:g} and {MAX_LOG:g}, deviations positive")
    if np.linalg.eigvalsh(correlation).min() < -1e-3:
        raise refuse("the correlations are not those of anything")
    return CoreFit(
        device=document.device,
        fingerprint=document.fingerprint,
        runtime=document.runtime,
        threads=document.threads,
        belief=Belief(mean, covariance, document.noise),
        trust=document.trust,
        classes=document.kernels,
        origin=document.origin,
    )
