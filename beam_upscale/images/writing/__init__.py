"""Writes arrays as the bytes of image files: encodes them at once, or streams rows."""
