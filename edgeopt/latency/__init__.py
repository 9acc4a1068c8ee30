"""How long kernels take on a device: tables, models, and the measuring that fills them."""
