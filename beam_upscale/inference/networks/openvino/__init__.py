"""Super-resolution networks on OpenVINO.
Weights files and samples come in; upscaled samples go out. Nothing here imports PyTorch.
"""
