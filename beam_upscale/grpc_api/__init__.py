"""The contract of the upscaling gRPC API: its messages, services and statuses.

Both sides speak by it: `inference.remote` asks, `server` answers. This package knows neither side,
and no room but `errors`.
"""
