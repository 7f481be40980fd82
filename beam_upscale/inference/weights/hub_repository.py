"""A repository of weights on the hub, pinned to one commit."""

import re
from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, SettingsError

# Glob patterns of the files that count; `*` crosses folders. Diffusers' own selection is not used:
# it may change with its version, and the same commit must have the same SHA-256 next month.
FILES = (
    "model_index.json",
    "*/*.json",
    "*/*.txt",
    "*/*model.safetensors",
    "*/*model-?????-of-?????.safetensors",
)

INDEX = "model_index.json"

# The hub's rules for names, as huggingface_hub's validate_repo_id has them.
_PART = r"\w+(?:[.-]\w+)*"
_SPEC = re.compile(rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>.*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the hub at one commit.

    Attributes:
        name: `OWNER/NAME`.
        revision: the commit's hash, 40 hexadecimal digits.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @classmethod
    def parse(cls, spec: str) -> "HubRepository | None":
        """Parses `OWNER/NAME@REVISION`; returns None for a text of another form.

        Raises:
            SettingsError: `UNKNOWN_WEIGHTS`, the revision is missing, or is a branch or a tag:
                those move, and results must be the same next month.
        """
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        name, revision = match["name"], match["revision"]
        if revision is not None and _COMMIT.fullmatch(revision):
            return cls(name, revision)
        found = (
            f"There is no folder {spec}, and a repository of the hub needs a revision"
            if revision is None
            else f"The revision {revision!r} of {name} is not a commit's hash"
        )
        raise SettingsError(
            ErrorCode.UNKNOWN_WEIGHTS,
            f"{found}. Branches and tags move; pin the weights as {name}@REVISION with the 40 "
            f"hexadecimal digits of a commit (`hf models info {name}` shows the newest as sha).",
        )
