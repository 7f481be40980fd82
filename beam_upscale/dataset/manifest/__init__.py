"""The rows of a dataset and the columns that hold them, as values and as Arrow tables.
Results' values and inputs' own columns come in; rows, tables, JSON and totals go out. Nothing here
opens a file, and no room is imported but `errors`.
"""
