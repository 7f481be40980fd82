"""The decision for one image before any of its pixels is read.
An engine, a size and options come in; a plan goes out: accept, tile, shrink, skip or reject, with
the output's size, the tiles and the exact price. This room is pure: it reads no file, holds no
pixels, and imports the standard library and `errors` only.
"""
