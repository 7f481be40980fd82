"""The formats of input datasets: a line in `input_format` for each, and a module of the same name.
The files that a pattern names come in; the listing of their inputs goes out. A format decodes no
image; others know nothing of it but the `DEFINITION` of its module. `tables` has what formats with
rows share.
"""
