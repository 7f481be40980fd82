"""Beam's ModelHandlers: one for each kind of engine.
Images with their tiles come in; the inference of each image goes out. A handler decides nothing
about an image and writes nothing; no other package of inference imports Beam.
"""
