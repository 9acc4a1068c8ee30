"""Other runtimes, each in an environment of its own, behind one line protocol."""

from .client import PeerError, Worker
from .table import PEERS, Spec, environment, interpreter

__all__ = ["PEERS", "PeerError", "Spec", "Worker", "environment", "interpreter"]
