"""The layouts of stored images: a line in `layout` for each, and a module of the same name.
Rows and encoded images come in; the file that holds a shard's images goes out, and is read back. A
layout knows neither runs nor holds; others know nothing of it but the `DEFINITION` of its module.
"""
