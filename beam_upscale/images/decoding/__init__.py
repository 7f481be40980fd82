"""Decodes in child processes, so that a hostile file costs one row and not the worker.
Bytes or a file's name, and limits, come in; images, headers and rows go out. No untrusted bytes are
decoded in the process that asks.

Untrusted bytes can end a codec library with a signal, hang it or exhaust memory. So a
`pool.DecoderPool` runs `beam_upscale.images` in child processes, each of which serves many images:

    parent                                child (`python -m beam_upscale.images.decoding`)
           <- ready, resident size -
           - a file's bytes, to hold ->
           <- its header -
           - decode, or let go ->
           <- reply, pixels -             and so on; it exits when its parent is gone

How parent and child exchange messages and memory is in `beam_upscale.images.processes`. The parent
checks the seals of memory, and every size that a message claims, before it maps it. A picture that
is not to be held whole stays in its file: the request names the file, and the child sends a region
of the picture, or all its rows in as many messages as they take.

A child gets none of its parent's secrets, and limits itself (`limits`). Codecs report a lack of
memory in different ways (libwebp cannot create a decoder, libavif cannot decode planes, libvips
cannot map). So a file that a codec refuses is decoded once more, with as much address space as its
codec asks for: the parent watches how much that is, ends the child if it exceeds the limit, and
reports OUT_OF_MEMORY then (`exchanges`).
"""
