"""Persists results, commits shards and completes a run.
Results come in, whose images are in memory or in files; a dataset goes out. It writes and deletes
under the hold of its run alone, and runs no network.
"""
