"""Files of local disks, Beam's file systems, HDFS and web servers, behind one protocol.
URIs come in; bytes, listings and atomic publications go out. This room knows nothing of images,
datasets or runs (one message names an option, `--max-input-bytes`), and imports no room but
`errors`.
"""
