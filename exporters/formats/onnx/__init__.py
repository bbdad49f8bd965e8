"""ONNX: files in four precisions, what is changed in their graphs, and what their layers cost."""
