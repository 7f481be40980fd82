"""The command line's options, one module for each concern; those of decoding are in `planning`."""
