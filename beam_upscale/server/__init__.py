"""The gRPC API over engines of this machine: `beam-upscale serve`.
Requests come in by gRPC and gRPC-Web; artifacts, balances and metrics go out. A request takes the
same steps as an image of a pipeline, and its charge is in the ledger before its answer is given.
This room reads no dataset and writes none.
"""
