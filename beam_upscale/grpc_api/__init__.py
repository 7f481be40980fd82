"""The contract of the upscaling gRPC API: its messages, services and statuses.
Bytes of the wire come in; messages and statuses go out, and the other way round. Both sides speak
by it: `inference.remote` asks, `server` answers. It knows neither side, and imports no other room.
"""
