"""The one protocol of all stores, and the base of those that are not on this machine.
A store's own few methods come in; all that callers can do with files goes out. It knows of no
store, and opens no file by itself.
"""
