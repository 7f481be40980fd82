"""Decoding in child processes, so that a hostile file costs one row and not the worker.

Bytes and limits come in; images, headers and rows go out.
"""
