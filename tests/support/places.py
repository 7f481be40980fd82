"""Where things stand in this checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
SUPPORT = ROOT / "tests" / "support"
