"""How a network is executed: by PyTorch, or by ONNX Runtime from an exported file."""
