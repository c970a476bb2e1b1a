"""Training of patch generators and their export to ONNX."""
