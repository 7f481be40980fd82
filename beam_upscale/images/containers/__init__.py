"""Reads headers and metadata of image files from their bytes alone: one module for each format.
A file's bytes come in; sizes, metadata and the parts of the file go out. Nothing here decodes a
pixel, opens a file or imports a codec.
"""
