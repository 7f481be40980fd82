"""The inputs of a run: found, described, listed in order.

A pattern comes in; `SourceImage`s go out. No image is decoded.
"""
