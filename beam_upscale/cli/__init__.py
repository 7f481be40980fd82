"""The command line: one file for each command, options by concern, and printed output.
Arguments come in; settings for the other rooms, results as text, and exit codes go out. This room
decides nothing that a Python user could not decide, and no room imports it.
"""
