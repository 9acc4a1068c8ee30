"""The page of an elastic zoo entry, written from its card."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgeopt.zoo.elastic import ElasticCard, Row


def render_elastic(card: ElasticCard) -> str:
    """The card as Markdown."""
    how = (
        "fine-tuned for all widths at once (`edgeopt train --quantize`)"
        if card.trained
        else "whose quantizers were fitted to its weights, without training"
    )
    lines = [
        f"# {card.name}",
        "",
        f"The supernet [{card.base}](../{card.base}/README.md), {how}. One set of int8 weights "
        "serves every subnet and every width: weights of 4, 3 and 2 bits are the stored ones "
        "rounded again, to learned steps.",
        "",
        "## Accuracy",
        "",
        f"Top-1 on {card.rows[0].images:,} test images, all in integers as deployed: quantized "
        "weights, activations of eight bits, run by onnxruntime; batch norms and ranges calibrated "
        f"on the {card.calibration_images} images that ship with the entry. *fp32* is the same "
        f"subnet of {card.base}, *fp32 after* the float weights of this entry. Bytes are those of "
        "packed weights; three bits take the room of four.",
        "",
    ]
    for subnet in dict.fromkeys(row.subnet for row in card.rows):
        rows = [row for row in card.rows if row.subnet == subnet]
        lines += [
            f"`{subnet}`: fp32 {rows[0].fp32:.2%}, fp32 after {rows[0].fp32_after:.2%}",
            "",
            "| plan | bits a weight | bytes | accuracy | against fp32 |",
            "|---|---|---|---|---|",
            *(_row(row) for row in rows),
            "",
        ]
    lines += [
        "| all subnets | mean against fp32 | worst |",
        "|---|---|---|",
        *(_mean(card.rows, kind) for kind in dict.fromkeys(row.kind for row in card.rows)),
        "",
    ]
    if (loss := card.activation_loss) is not None:
        lines += [
            f"With activations in float the same plans have {100 * loss:.2f} points more on "
            "average; searches take that off what the predictor says.",
            "",
        ]
    if card.calibration:
        gaps = [row.real - row.shipped for row in card.calibration]
        lines += [
            "## Calibration without data",
            "",
            f"{card.calibration_images} synthesised images against {card.real_images:,} real "
            f"training images, on {card.calibration[0].images:,} test images, quantized weights "
            f"and float activations: loss {100 * statistics.fmean(gaps):.2f} points on average, "
            f"worst {100 * max(gaps):.2f}.",
            "",
            "| subnet | plan | shipped | real |",
            "|---|---|---|---|",
            *(
                f"| `{row.subnet}` | `{row.plan}` | {row.shipped:.2%} | {row.real:.2%} |"
                for row in card.calibration
            ),
            "",
        ]
    lines += [
        "## Evaluations",
        "",
        f"`evaluations.csv`: {card.pairs} subnets under plans of 2, 4 and 8 bits on "
        f"{card.pair_images:,} test images, quantized weights and float activations.",
        "",
    ]
    if (p := card.prediction) is not None:
        low, high = (100 * end for end in p.interval)
        lines += [
            f"The predictor that ships ({p.family}) knows architecture and plan. On {p.held_out} "
            f"pairs it was not fitted to: Kendall τ {p.kendall_tau:.3f}, mean error "
            f"{100 * p.mean_absolute_error:.2f} points; 90 % interval {low:+.2f} to {high:+.2f} "
            f"points, which held {p.coverage:.0%} of them.",
            "",
        ]
    for title, entries in (("Training", card.training), ("Licences", card.licences)):
        if entries:
            lines += [f"## {title}", ""]
            lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in entries.items()]
            lines.append("")
    return "\n".join(lines)


def _row(row: Row) -> str:
    name = row.kind if row.kind.startswith("w") else f"`{row.plan}`"
    return (
        f"| {name} | {row.average_bits:.2f} | {row.weight_bytes:,} | {row.accuracy:.2%} | "
        f"{100 * (row.accuracy - row.fp32):+.2f} |"
    )


def _mean(rows: Sequence[Row], kind: str) -> str:
    gaps = [100 * (row.accuracy - row.fp32) for row in rows if row.kind == kind]
    return f"| {kind} | {statistics.fmean(gaps):+.2f} | {min(gaps):+.2f} |"
