"""What a user asks `edgeopt quantize` for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeopt.core.errors import InputError, suggest

PRECISIONS = ("int8", "w4", "mixed")
SENSITIVITIES = ("loss", "hessian")


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """What a user asked for.

    Attributes:
        model: the ONNX file.
        data: images to calibrate and judge on.
        out: the ONNX file to write; report and plan go beside it.
        precision: ``int8``, ``w4`` or ``mixed``.
        device: only precisions of this board's kernels; empty allows all that kernels could have.
        max_drop: percentage points of top-1, or of what stands for it.
        average_bits: of a weight; a budget of ``mixed``.
        flash_bytes: of weights, scales and biases; another.
        plan: a plan that was written before, instead of a search.
        sensitivity: ``loss`` or ``hessian``.
        force: replace files that exist.
    """

    model: Path
    data: Path
    out: Path
    precision: str = "int8"
    device: str = ""
    max_drop: float | None = None
    average_bits: float | None = None
    flash_bytes: int | None = None
    plan: Path | None = None
    sensitivity: str = "loss"
    input_shapes: tuple[str, ...] = ()
    profile_dirs: tuple[Path, ...] = ()
    any_table: bool = False
    seed: int = 0
    force: bool = False

    @property
    def report(self) -> Path:
        """The page beside the model."""
        return self.out.with_suffix(".html")

    @property
    def plan_out(self) -> Path:
        """The plan beside the model."""
        return self.out.with_suffix(".plan.json")

    def check(self) -> None:
        """Refuse options that contradict each other, and files that are in the way.

        Raises:
            InputError: naming the option.
        """
        for option, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--sensitivity", self.sensitivity, SENSITIVITIES),
        ):
            if value not in known:
                raise InputError(
                    f"unknown {option[2:]} {value!r}", where=option,
                    hint=suggest(value, known, noun=option[2:]),
                )  # fmt: skip
        budgets = [("--average-bits", self.average_bits), ("--flash", self.flash_bytes),
                   ("--max-drop", self.max_drop)]  # fmt: skip
        given = [name for name, value in budgets if value is not None]
        if self.plan is not None and given:
            raise InputError(
                "a plan that is given is not searched for", where=given[0], hint="leave one out"
            )
        if self.precision != "mixed" and given:
            raise InputError(
                f"{self.precision} leaves nothing to choose", where=given[0],
                hint="search for bits with --precision mixed",
            )  # fmt: skip
        if len(given) > 1 and "--max-drop" in given:
            raise InputError(
                "either a budget is met, or a drop", where=" and ".join(given),
                hint="leave out --max-drop: the drop within the budget is measured and reported",
            )  # fmt: skip
        drop, bits = self.max_drop, self.average_bits
        if drop is not None and not (0 <= drop <= 100):
            raise InputError(
                f"a drop of {drop:g} points",
                where="--max-drop",
                hint="between 0 and 100, such as 1.0",
            )
        if bits is not None and not (2 <= bits <= 8):
            raise InputError(
                f"{bits:g} bits on average",
                where="--average-bits",
                hint="between 2 and 8, such as 3.5",
            )
        outputs = [self.out, self.plan_out, self.report]
        taken = [path for path in outputs if path.exists()]
        if self.out.suffix != ".onnx":
            raise InputError("the output is no .onnx file", where=str(self.out),
                             hint="name it, such as -o quantized.onnx")  # fmt: skip
        if taken and not self.force:
            raise InputError("exists already", where=str(taken[0]),
                             hint="choose another name, or replace it with --force")  # fmt: skip
