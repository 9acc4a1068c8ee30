"""What a quantized network costs on a board, beside the same network in int8 and in float."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeopt.core.errors import EdgeoptError
from edgeopt.core.network import Network
from edgeopt.pipeline.manifest import Figure

if TYPE_CHECKING:
    from edgeopt.core.device import DeviceProfile
    from edgeopt.quant.ptq import Prepared


def board_figures(
    profile: DeviceProfile | None, prepared: Prepared, network: Network, *, any_table: bool
) -> tuple[tuple[Figure, ...], tuple[Figure, ...], tuple[str, ...]]:
    """Figures before and after on a board, and notes.

    Before is the float network where the board computes in float, else the network in int8.

    Args:
        profile: the board; None gives nothing.
        prepared: the float network.
        network: the quantized one.
        any_table: predict from a table of other code, governor or threads too.
    """
    if profile is None:
        return (), (), ()
    from edgeopt.pipeline import figures
    from edgeopt.pipeline.artifact import make_artifact
    from edgeopt.pipeline.tiles import choices_of

    try:
        model = figures.model_for(profile, strict=False, any_table=any_table)

        def known(of: Network) -> tuple[Figure, ...]:
            artifact = make_artifact(of, profile.target, choices_of(profile))
            return (
                figures.latency_of(model, artifact.graph.keys),
                *figures.static(artifact, None),
            )

        before_is = prepared.network if "f32" in profile.precisions else widened(network)
        kind = "float" if "f32" in profile.precisions else "int8"
        artifact = make_artifact(network, profile.target, choices_of(profile))
        notes = figures.widened_notes(network, artifact)
        return (
            known(before_is),
            known(network),
            (f"on {profile.name}, before is the network in {kind}", *notes),
        )
    except EdgeoptError as error:
        return (), (), (f"{profile.name}'s figures are not known: {error.what}",)


def widened(network: Network) -> Network:
    """The same network with every weight stored as int8."""
    ops = tuple(
        replace(op, attrs={k: v for k, v in op.attrs.items() if k != "weight_bits"})
        for op in network.ops
    )
    return replace(network, ops=ops)
