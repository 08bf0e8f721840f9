"""Compare the exported ONNX graph with torch: speed and vectors."""
