"""Prints for people: tables, summaries, progress, errors."""
