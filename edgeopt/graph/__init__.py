"""The only package that touches onnx."""
