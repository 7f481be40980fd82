"""Logs and metrics of a server.
Events and counts come in; lines of JSON on standard error and metrics for Prometheus go out. No
other room is imported here.
"""
