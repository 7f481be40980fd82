"""The options of commands: one module for each concern; those of decoding are in `planning`.
Texts of the command line come in; checked values with the types of the other rooms go out. A
default is the one that the room of the value has: none is defined here, and no option starts
anything.
"""
