"""Architecture and precision chosen together: one more gene beside the subnet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.genes import Genes, SubnetDomain

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A subnet and the precision all of it runs in (``f32`` or ``i8``)."""

    subnet: SubnetConfig
    precision: str

    def __str__(self) -> str:
        return f"{self.subnet} in {self.precision}"


class JointDomain:
    """Every subnet in every precision; the precision is the last gene (see `ofa.genes.Domain`)."""

    def __init__(self, space: SearchSpace, precisions: Sequence[str]) -> None:
        self._subnets = SubnetDomain(space)
        self._precisions = tuple(precisions)
        self.cardinalities = (*self._subnets.cardinalities, len(self._precisions))
        self.size: int = self._subnets.size * len(self._precisions)

    def canonical(self, genes: Genes) -> Genes:
        """The same choice with the genes of unused blocks at 0."""
        return (*self._subnets.canonical(genes[:-1]), genes[-1])

    def decode(self, genes: Genes) -> Choice:
        """The choice, its subnet in canonical form."""
        return Choice(self._subnets.decode(genes[:-1]), self._precisions[genes[-1]])

    def enumerate(self) -> Iterator[Genes]:
        """Every choice once, as canonical genes."""
        for genes in self._subnets.enumerate():
            for index in range(len(self._precisions)):
                yield (*genes, index)


def joint_predictor(
    subnets: Callable[[Sequence[SubnetConfig]], Floats], loss: dict[str, float]
) -> Callable[[Sequence[Choice]], Floats]:
    """Predicted accuracies of choices: the subnet's, less what its precision was measured to cost.

    Args:
        subnets: predicted fp32 accuracies (0..1) of subnets.
        loss: precision -> mean accuracy lost (0..1), as measured on the zoo's subnets.
    """

    def predict(choices: Sequence[Choice]) -> Floats:
        accuracy = subnets([choice.subnet for choice in choices])
        cost = np.array([loss[choice.precision] for choice in choices], np.float64)
        result: Floats = accuracy - cost
        return result

    return predict
