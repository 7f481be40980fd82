"""Reads the bytes of image files into arrays: identify, inspect, decode, whole or by rows.
Bytes or a local file come in; headers, samples, metadata and notes go out. Hostile bytes may end
the process, so only a child of `decoding` is to decode them; nothing here knows that package.
"""
