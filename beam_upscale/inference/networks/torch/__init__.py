"""Super-resolution networks on PyTorch.
Weights files and samples come in; upscaled samples go out. Nothing here imports OpenVINO.
"""
