"""The paths of an output's files: the names of all files and folders that a run writes into it.
Nothing comes in; names go out, relative to the output's root or to its folder of work in progress.
Nothing here opens a file, and no other module spells these names.
"""
