"""Writing a device profile as the TOML that `edgeopt.devices.load` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgeopt.core.device import DeviceProfile
from edgeopt.devices.profile import FACTS, SCHEMA


def profile_text(profile: DeviceProfile, comments: Sequence[str] = ()) -> str:
    """The text of ``profile.toml``.

    Args:
        profile: of a device with an operating system; figures that are unknown are left out.
        comments: lines for whoever reads it, at the top.
    """
    lines = [f"# {line}" for line in comments]
    lines += ["", f"schema = {SCHEMA}"] if lines else [f"schema = {SCHEMA}"]
    for name in ("name", "title", "chip", "core", "kind"):
        lines.append(f"{name} = {_text(getattr(profile, name))}")
    if profile.notes:
        lines.append(f"notes = {_text(profile.notes)}")
    lines += [
        "",
        "[cpu]",
        f"arch = {_text(profile.arch)}",
        f"triple = {_text(profile.triple)}",
        f"mcpu = {_text(profile.mcpu)}",
        f"features = {_texts(sorted(profile.features))}",
        f"precisions = {_texts(profile.precisions)}",
    ]
    for name, (section, *_) in FACTS.items():
        value = getattr(profile, name)
        if value is not None:
            known = profile.provenance[name]
            lines += [
                "",
                f"[{section}.{name}]",
                f"value = {value:_}",
                f"source = {_text(known.source.value)}",
                f"reference = {_text(known.reference)}",
            ]
    lines += ["", "[toolchain]", f"compilers = {_texts(profile.toolchain.compilers)}"]
    for name in ("c_flags", "link_flags"):
        flags = getattr(profile.toolchain, name)
        if flags:
            lines.append(f"{name} = {_texts(flags)}")
    lines += ["", "[runner]", f"transport = {_text(profile.runner.transport)}"]
    for name in ("program", "cpu", "machine", "host", "port", "python"):
        value = getattr(profile.runner, name)
        if value:
            lines.append(f"{name} = {_text(value)}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A basic string: what JSON escapes, TOML understands."""
    return json.dumps("".join(c if c.isprintable() else " " for c in value), ensure_ascii=False)


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
