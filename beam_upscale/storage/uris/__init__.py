"""URIs as text: parsed as browsers parse them, joined, shown without their secrets.

Nothing here opens a file.
"""
