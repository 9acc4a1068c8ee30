"""edgeopt: from a once-for-all supernet, or any ONNX network, to code proven to run on a board."""

__version__ = "0.1.0"
