"""What runs pinned engines: networks here, a service elsewhere, batches of tiles.

Tiles come in, upscaled cores go out.
"""
