"""The command line's options, one module for each concern."""
