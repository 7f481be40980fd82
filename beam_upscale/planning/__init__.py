"""The decision for each image before any pixel is read.

Engine, size and options come in; accept, tile, shrink, skip or reject comes out, with the exact
price. Standard library only.
"""
