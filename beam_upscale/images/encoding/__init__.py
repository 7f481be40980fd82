"""Encodes in child processes, so that the process that drives a device only handles descriptors.
Pixels, a size, metadata and options come in; the encoded bytes, their hash and notes go out, or
resized pixels. The children write no file. An image has the same bytes as if it were encoded here.

    parent                                child (`python -m beam_upscale.images.encoding`)
           <- ready, resident size -
           - pixels, size, metadata, options ->
           <- encoded bytes, hash, notes, resident size -
           - pixels, size, box ->
           <- resized pixels, resident size -

Encoders are trusted: of a source's bytes they get only the metadata, as a decoder gives it. So they
have no limits as decoders do, but none of their parent's secrets either.

The child resizes the pixels to the size of the result, encodes and hashes them. It also reduces a
network's result to the scale of the engine, tile by tile, before tiles are stitched. A child that
is lost is replaced once for an image (`beam_upscale.images.processes`). Few pixels are encoded and
resized where they are (`pool.LEAST_PIXELS`): their exchange would take longer.

Pixels are written into memory once, by the system. To stitch tiles in a mapping of it would save
this copy, and takes twice as long: each page of a mapping costs a fault.
"""
