"""What an image file says besides its pixels.

EXIF, XMP, ICC profiles, color tags: bytes come in, bytes adapted to the result go out.
"""
