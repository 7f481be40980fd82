"""Prints for people: tables, summaries, progress and errors.
Values and errors of the other rooms come in; lines on the two consoles go out. Nothing here starts
a run or opens a file of a dataset.
"""
