"""The commands, one module for each; `start_up` does the imports at a command's start."""
