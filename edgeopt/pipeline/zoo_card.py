"""A zoo entry's model card as a page for people."""

from __future__ import annotations

from edgeopt.core.space import SearchSpace
from edgeopt.zoo.card import Card


def render_card(card: Card, space: SearchSpace) -> str:
    """The card as Markdown."""
    a, c, p = card.accuracy, card.calibration, card.prediction
    lines = [
        f"# {card.name}",
        "",
        f"A once-for-all MobileNetV3 supernet of the space `{card.space}`: {space.size:,} subnets, "
        f"{card.macs_smallest / 1e6:.2f} to {card.macs_largest / 1e6:.2f} million "
        "multiply-accumulates.",
        "",
        f"- {space.summary}",
        f"- input: {space.in_channels} x {space.resolutions[-1]} x {space.resolutions[-1]}, "
        f"pixels scaled to 0..1, mean {_numbers(space.mean)}, deviation {_numbers(space.std)}",
        f"- classes: {', '.join(space.labels) or space.classes}",
        "",
        "## Accuracy",
        "",
        f"Top-1 in fp32 on {a.images:,} test images, each subnet with batch norms calibrated on "
        "the images that ship with it, as `edgeopt compile` does without `--data`. "
        "Every subnet is listed in `evaluations.csv`.",
        "",
        "| | accuracy |",
        "|---|---|",
        f"| largest subnet | {a.largest:.2%} |",
        f"| smallest subnet | {a.smallest:.2%} |",
        f"| best of {a.subnets} | {a.maximum:.2%} |",
        f"| median | {a.median:.2%} |",
        f"| worst | {a.minimum:.2%} |",
        "",
        "## Calibration without data",
        "",
        f"`calibration.npz` holds {c.images} images synthesised from the supernet's own "
        f"statistics. Against {c.real_images:,} real training images, on {c.subnets} random "
        f"subnets: {c.shipped_mean:.2%} against {c.real_mean:.2%} on average "
        f"(loss {100 * c.mean_loss:.2f} points, worst {100 * c.worst_loss:.2f}). "
        f"With real images the largest subnet reaches {c.largest_real:.2%}, "
        f"the smallest {c.smallest_real:.2%}.",
        "",
    ]
    if card.int8 is not None:
        q = card.int8
        lines += [
            "## int8",
            "",
            f"Run by onnxruntime on {q.images:,} test images, activations calibrated on the "
            f"shipped images: mean loss {100 * q.mean_loss:.2f} points, "
            f"worst {100 * q.worst_loss:.2f}.",
            "",
            "| subnet | fp32 | int8 |",
            "|---|---|---|",
            *(f"| `{row.subnet}` | {row.fp32:.2%} | {row.int8:.2%} |" for row in q.rows),
            "",
        ]
    low, high = p.interval
    lines += [
        "## Predictor",
        "",
        f"A {p.family} model fitted to {p.measured} measured subnets. On {p.held_out} held out: "
        f"Kendall τ {p.kendall_tau:.3f}, mean absolute error "
        f"{100 * p.mean_absolute_error:.2f} points; {p.coverage:.0%} of them lie within the "
        f"90 % interval, {100 * low:+.2f} to {100 * high:+.2f} points.",
        "",
    ]
    for title, entries in (("Training", card.training), ("Licences", card.licences)):
        if entries:
            lines += [f"## {title}", ""]
            lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in entries.items()]
            lines.append("")
    return "\n".join(lines)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
