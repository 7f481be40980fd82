"""Other tools that do a run's work: each a program that takes an input and an output folder.

Each reads the images of a folder, decodes them, doubles their size by repeating pixels, encodes
PNGs, hashes these with SHA-256, and writes one Parquet dataset with the columns `path`, `png` and
`sha256`. None keeps what it has done when it is killed, confines a decoder, or gives a row to an
image that cannot be read.

Each is set up as its own documentation advises; the program says where. Daft and Ray Data have a
Python of their own, which `set_up` makes from `requirements.lock`: the package's own dependencies
are in it too, in the package's own versions, so that all use the same Pillow, NumPy and Arrow.
"""
