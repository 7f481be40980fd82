"""Measurements of this package beside its peers; none of them is a test."""
