"""Beam's ModelHandlers: one for each kind of engine.

The only part of inference that imports Beam.
"""
