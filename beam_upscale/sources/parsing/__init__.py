"""Parsers that input formats share: rows of tables, metadata files, members of tars.
The bytes of a file that names or holds images come in; rows and members go out, in bounded memory.
No parser knows which formats there are.
"""
