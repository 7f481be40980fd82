"""The commands: one module for each, and the imports that they need as they start.
The values of options come in; a call of another room goes out, and `display` prints its result. No
command calls another, and none decides what a Python user could not.
"""
