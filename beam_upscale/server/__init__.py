"""The gRPC API over models of this machine: `beam-upscale serve`."""
