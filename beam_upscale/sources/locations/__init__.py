"""Where an input's bytes are: a file, a range of one, or a cell of a Parquet file."""
