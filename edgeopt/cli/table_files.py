"""``edgeopt table show|diff|merge|check``: latency tables as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli.console import stdout, table
from edgeopt.core.errors import InputError

if TYPE_CHECKING:
    from edgeopt.core.kernels import OpKey
    from edgeopt.latency.table import LatencyTable
    from edgeopt.pipeline.tables import ClassRow, Difference, Finding

LISTED = 8
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("show")(show)
    app.command("diff")(diff)
    app.command("merge")(merge)
    app.command("check")(check)


def show(
    file: Annotated[Path, typer.Argument(help="A latency table.")],
    kernels: Annotated[
        int, typer.Option(min=0, help="List so many kernels, the slowest first.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """What a table holds: its device and runtime, kernels by class, and its error on networks."""
    from edgeopt.core.units import show_duration
    from edgeopt.latency.table import load_table
    from edgeopt.pipeline.tables import classes_of

    found = load_table(file)
    slowest = sorted(found.entries, key=lambda key: (-found.entries[key].median_ns, key))[:kernels]
    if as_json:
        print(json.dumps(_document(found, classes_of(found), slowest), indent=2))
        return
    console = stdout()
    console.print(table(["table", ""], _facts(file, found)))
    console.print()
    console.print(table(["class", "type", "kernels", "median", "rate"], [
        (row.name, row.precision, str(row.kernels), show_duration(row.median_ns), _rate(row))
        for row in classes_of(found)
    ]))  # fmt: skip
    if slowest:
        console.print()
        console.print(table(["kernel", "median", "±", "visits", "in networks", "from"], [
            (str(key), show_duration(found.entries[key].median_ns),
             show_duration(found.entries[key].spread_ns), str(found.entries[key].windows),
             show_duration(found.in_network[key]) if key in found.in_network else "",
             found.entries[key].origin)
            for key in slowest
        ]))  # fmt: skip


def diff(
    first: Annotated[Path, typer.Argument(help="A latency table.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    worst: Annotated[int, typer.Option(min=0, help="List so many kernels.")] = 10,
    as_json: Json = False,
) -> None:
    """How the times of two tables compare: by class, and the kernels that differ most."""
    from edgeopt.core.units import show_duration
    from edgeopt.latency.table import load_table
    from edgeopt.pipeline.tables import difference

    found = difference(load_table(first), load_table(second), worst=worst)
    if as_json:
        print(json.dumps(_difference_document(found), indent=2))
        return
    console = stdout()
    for name, (one, other) in found.identity.items():
        console.print(f"{name}: {one}, then {other}", markup=False)
    console.print(f"{sum(row.kernels for row in found.classes)} kernels are in both tables, "
                  f"{found.only_first} in the first alone, {found.only_second} in the second",
                  markup=False)  # fmt: skip
    console.print(table(["class", "type", "kernels", "second / first", "5 % to 95 %"], [
        (row.name, row.precision, str(row.kernels), f"{row.ratio:.3f}",
         f"{row.low:.3f} to {row.high:.3f}")
        for row in found.classes
    ]))  # fmt: skip
    if found.rows:
        console.print()
        console.print(table(["kernel", "first", "second", "ratio"], [
            (str(key), show_duration(a), show_duration(b), f"{b / a:.3f}")
            for key, a, b in found.rows
        ]))  # fmt: skip


def merge(
    files: Annotated[list[Path], typer.Argument(help="Tables of one device and runtime.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")],
    as_json: Json = False,
) -> None:
    """Join tables; of a kernel in several, the last file's row is kept, with where it is from."""
    from collections import Counter

    from edgeopt.pipeline.tables import merge

    merged = merge(files)
    merged.save(out)
    origins = Counter(entry.origin for entry in merged.entries.values())
    if as_json:
        document = {"schema": 1, "table": str(out), "kernels": len(merged.entries),
                    "origins": dict(origins)}  # fmt: skip
        print(json.dumps(document, indent=2))
        return
    stdout().print(table(["from", "kernels"], [(n, str(c)) for n, c in sorted(origins.items())]))
    stdout().print(f"wrote {out}: {len(merged.entries)} kernels", markup=False)


def check(
    files: Annotated[list[Path], typer.Argument(help="Latency tables.")],
    as_json: Json = False,
    profile_dir: Annotated[
        list[Path] | None, typer.Option(help="More folders of device profiles.")
    ] = None,
) -> None:
    """Say what is odd in tables; status 2 if one cannot be used as it is."""
    from edgeopt.latency.table import load_table
    from edgeopt.pipeline.tables import check, profile_of, version_now

    found: dict[str, list[Finding]] = {}
    for file in files:
        loaded = load_table(file)
        profile = profile_of(loaded, profile_dir or ())
        found[str(file)] = check(loaded, profile, version_now(loaded))
    bad = [name for name, items in found.items() if any(i.level == "error" for i in items)]
    if as_json:
        document = {
            name: [
                {"level": i.level, "what": i.what, "kernels": [str(key) for key in i.kernels]}
                for i in items
            ]
            for name, items in found.items()
        }
        print(json.dumps({"schema": 1, "tables": document}, indent=2))
    else:
        for name, items in found.items():
            stdout().print(f"{name}: {_verdict(items)}", markup=False)
            for item in items:
                stdout().print(f"  {item.level}: {item.what}{_listed(item)}", markup=False)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(files)} tables cannot be used as they are", where=", ".join(bad),
            hint="measure again with `edgeopt profile`",
        )  # fmt: skip


def _verdict(items: list[Finding]) -> str:
    errors = sum(item.level == "error" for item in items)
    if not items:
        return "nothing odd"
    return f"{errors} errors, {len(items) - errors} warnings"


def _listed(item: Finding) -> str:
    if not item.kernels:
        return ""
    more = f", and {len(item.kernels) - LISTED} more" if len(item.kernels) > LISTED else ""
    return f" ({len(item.kernels)}): " + "; ".join(map(str, item.kernels[:LISTED])) + more


def _rate(row: ClassRow) -> str:
    return f"{2 * row.rate:.1f} Gop/s" if row.rate else ""


def _facts(file: Path, found: LatencyTable) -> list[tuple[str, str]]:
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    rows = [
        ("file", str(file)),
        ("device", f"{found.device} ({found.fingerprint})"),
        ("runtime", f"{found.runtime} {found.runtime_version}, {threads}"),
        ("known", f"{found.source}, {len(found.entries)} kernels"),
    ]
    if found.in_network:
        rows.append(("in networks", f"times of {len(found.in_network)} kernels"))
    calibration, truth = found.calibration, found.truth
    if calibration is not None:
        tried = ", ".join(f"{name} {error:.1%}" for name, error in calibration.candidates)
        text = f"{calibration.method}, fitted on {calibration.networks} networks"
        rows.append(("to networks", f"{text} (errors left out: {tried})" if tried else text))
    if truth is not None:
        rows += [
            ("held out", f"{truth.networks} networks: error {truth.mape:.1%}, within 5 % "
             f"{truth.within_5:.0%}, within 10 % {truth.within_10:.0%}, Spearman "
             f"{truth.spearman:.3f}"),
            ("worst", f"{truth.worst_error:.1%}: {truth.worst}"),
            ("90 % interval", f"±{truth.interval:.1%}, covers {truth.covered:.0%} of networks left "
             "out of it"),
        ]  # fmt: skip
    return rows + [(name.replace("_", " "), value) for name, value in found.conditions.items()]


def _document(
    found: LatencyTable, classes: tuple[ClassRow, ...], slowest: list[OpKey]
) -> dict[str, object]:
    return {
        "schema": 1,
        "device": found.device,
        "fingerprint": found.fingerprint,
        "runtime": found.runtime,
        "runtime_version": found.runtime_version,
        "threads": found.threads,
        "source": found.source.value,
        "kernels": len(found.entries),
        "classes": [asdict(row) for row in classes],
        "calibration": None if found.calibration is None else asdict(found.calibration),
        "truth": None if found.truth is None else asdict(found.truth),
        "conditions": dict(found.conditions),
        "slowest": {str(key): found.entries[key].median_ns for key in slowest},
    }


def _difference_document(found: Difference) -> dict[str, object]:
    return {
        "schema": 1,
        "identity": {name: list(values) for name, values in found.identity.items()},
        "only_first": found.only_first,
        "only_second": found.only_second,
        "classes": [asdict(row) for row in found.classes],
        "kernels": [
            {"key": str(key), "first_ns": a, "second_ns": b, "ratio": b / a}
            for key, a, b in found.rows
        ],
    }
