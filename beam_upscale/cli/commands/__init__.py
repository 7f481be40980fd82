"""The commands, one module for each, and what a command imports as it starts."""
