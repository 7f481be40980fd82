"""The inputs of a run: found by their format, named, and given their own columns.
A pattern of files, tables or archives comes in; `SourceImage`s in the order of their ids go out.
This room decodes no image and decides nothing about it.
"""
