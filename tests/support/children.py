"""Decoder processes to which something happens."""

import sys

_WITHOUT_SPACE = """
import errno, os, tempfile

class Full:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, data): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

tempfile.TemporaryFile = lambda **_: Full()
from beam_upscale.images.decoding import child
child.main()
"""

WITHOUT_SPACE = (sys.executable, "-c", _WITHOUT_SPACE)
"""The command of one whose temporary folder is full."""
