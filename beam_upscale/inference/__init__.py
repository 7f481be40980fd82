"""Runs pinned engines: networks on this machine, services elsewhere, tiles in batches.

Tiles come in; upscaled tiles go out, with the credits billed. This room decides no price and no
tile, and writes no result. `networks` and `weights` never import Beam; only `handlers` serve it.
"""
