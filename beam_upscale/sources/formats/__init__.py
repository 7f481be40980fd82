"""The formats of input datasets: a line in `input_format` for each, and a module of the same name.

The files that a pattern names come in; the listing of their inputs goes out. A format's module has
its `DEFINITION`, which is all that others know of it; `tables` has the code that formats with rows
share.
"""
