"""A run's hold on its output: one output has one writer at a time."""
