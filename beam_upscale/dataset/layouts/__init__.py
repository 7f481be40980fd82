"""The layouts of stored images: a line in `layout` for each, and a module of the same name.

Rows and encoded images come in; the file that holds a shard's images goes out, and is read back. A
layout's module has its `DEFINITION`, which is all that others know of it.
"""
