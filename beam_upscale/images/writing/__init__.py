"""Writes arrays as the bytes of image files: encodes them at once, or streams rows.
Samples, metadata and options come in; encoded bytes, or a local file that its caller names, go out.
Nothing here decodes an image or publishes a file.
"""
