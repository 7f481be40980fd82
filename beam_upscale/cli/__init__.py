"""The command line: one file for each command, options by concern, and printed output.

Arguments come in; settings go to the other rooms, and results and errors come out as text and exit
codes. This room decides nothing that a Python user could not decide, and no room imports it.
"""
