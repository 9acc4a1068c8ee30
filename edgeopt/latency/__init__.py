"""How long kernels take on a device: tables, models, and the measuring that fills them."""

from edgeopt.latency.select import find_table, latency_source, load_model, model_digest, table_path

__all__ = [
    "find_table",
    "latency_source",
    "load_model",
    "model_digest",
    "table_path",
]
