"""The paths of an output's files: the names of all files and folders that a run leaves there, and
of those in its work in progress that several packages name; any other there is named by the
module whose it is. Nothing comes in; names go out, relative to the output's root or to that folder.
Nothing here opens a file.
"""
