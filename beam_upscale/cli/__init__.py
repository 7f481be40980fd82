"""The command line: options become settings, results become text. Nothing imports it."""
