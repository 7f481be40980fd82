"""The upscaling gRPC API: its messages, and the client that the pipeline fans out with.

The server of the same API is `beam_upscale.server`.
"""
