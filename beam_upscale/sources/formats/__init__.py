"""The formats of input datasets: one module for each, found by its name."""
