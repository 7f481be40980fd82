"""The environment of a process that reads untrusted bytes: no API keys, no credentials."""

import os
import sys
from pathlib import Path

_KEPT = frozenset(
    {
        # The places of programs, libraries and temporary files.
        *("PATH", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT"),
        *("DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES"),
        # The settings with which Python starts.
        *("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHASHSEED"),
        *("PYTHONWARNINGS", "PYTHONUTF8"),
        # The language and the time zone.
        *("LANG", "LANGUAGE", "TZ"),
        # The C library's allocation of memory.
        *("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"),
    }
)
_KEPT_PREFIXES = ("LC_",)
_FOLDERS = ("TMPDIR", "TEMP", "TMP")


def plain_environment() -> dict[str, str]:
    """Returns this process's variables for paths, Python, language and memory, and no others.

    An allowlist is used, as no list of secret variables can be complete. Temporary folders are
    made absolute, for processes that work in another folder.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return kept | {name: str(Path(kept[name]).absolute()) for name in _FOLDERS if kept.get(name)}


def module_path() -> str:
    """Returns this process's module path as a `PYTHONPATH`, for a child to find the same ones."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
