"""The metadata of image files, besides their pixels: EXIF, XMP, ICC profiles, color tags.
A file's metadata come in; metadata adapted to the result, and notes, go out. Nothing here opens a
file or changes a pixel.
"""
