"""What a process that meets strangers' bytes is told of its parent: no API keys, no credentials."""

import os
import sys
from pathlib import Path

_KEPT = frozenset(
    {
        # Where programs, libraries and temporary files are.
        *("PATH", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT"),
        *("DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES"),
        # How Python starts.
        *("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHASHSEED"),
        *("PYTHONWARNINGS", "PYTHONUTF8"),
        # Languages and times.
        *("LANG", "LANGUAGE", "TZ"),
        # How the C library hands out memory.
        *("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"),
    }
)
_KEPT_PREFIXES = ("LC_",)
_FOLDERS = ("TMPDIR", "TEMP", "TMP")


def plain_environment() -> dict[str, str]:
    """The variables of this process that tell nothing but where things are and in which language.

    A list of what is kept, as no list of what is secret can be complete. Folders are absolute, for
    processes that work elsewhere.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return kept | {name: str(Path(kept[name]).absolute()) for name in _FOLDERS if kept.get(name)}


def module_path() -> str:
    """Where this process finds its modules, for a child to find the same ones."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
