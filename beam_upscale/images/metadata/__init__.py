"""The metadata of image files, besides their pixels.

EXIF, XMP, ICC profiles, color tags: bytes come in, bytes adapted to the result go out.
"""
