"""URIs as text: parsed as browsers parse them, joined, shown without their secrets.
Texts come in; parts of URIs, joined URIs and texts for people go out. Nothing here opens a file.
"""
