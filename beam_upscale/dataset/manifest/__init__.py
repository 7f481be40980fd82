"""The rows of a dataset and the columns that hold them, as values and as Arrow tables."""
