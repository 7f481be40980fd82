"""The locations of inputs' bytes, and reading from them: a file, a range, or a cell of Parquet."""
