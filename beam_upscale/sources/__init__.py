"""The inputs of a run: found by their format, named, given their own columns, and listed in order.
A pattern of files, tables or archives comes in; `SourceImage`s in the order of the listing go out.
This room decodes no image and decides nothing about it.
"""
