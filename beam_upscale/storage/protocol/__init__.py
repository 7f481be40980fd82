"""The one protocol of all stores, and the base of those that are not on this machine.

It knows of no store, and opens no file by itself.
"""
