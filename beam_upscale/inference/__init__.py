"""Pinned engines at work: networks on this machine, a service elsewhere, batches of tiles.
Tiles come in; upscaled tiles go out, with what they cost. This room decides no price and no tile,
and writes no result; only `handlers` imports Beam.
"""
