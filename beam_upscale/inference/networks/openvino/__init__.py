"""Super-resolution networks on OpenVINO."""
