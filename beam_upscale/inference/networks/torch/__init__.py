"""Super-resolution networks on PyTorch."""
