"""What can be wrong in the measurements without a stopwatch."""
