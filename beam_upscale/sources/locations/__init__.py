"""The locations of inputs' bytes, and reading from them: a file, a range, or a cell of Parquet.
A URI and a part of its file come in; bytes, sizes and hashes go out. Nothing here knows what the
bytes are, and no room is imported but `errors` and `storage`.
"""
