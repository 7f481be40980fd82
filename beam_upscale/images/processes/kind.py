"""The properties by which kinds of child processes differ: their names and codes in errors."""

from dataclasses import dataclass

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError


@dataclass(frozen=True)
class Kind:
    """A kind of child process, as errors name it.

    Attributes:
        name: the process, as in "no decoder process could be started".
        work: the work, as in "decoding took longer than 5 seconds".
        sent: the object of a request, as in "no file can be passed to decoder processes".
        cause: the probable reasons for the loss of two processes on one image.
        unavailable: the code if no process can be started.
        lost: the code of an image on which two processes are lost.
        late: the code of an image that takes too long.
    """

    name: str
    work: str
    sent: str
    cause: str
    unavailable: ErrorCode
    lost: ErrorCode
    late: ErrorCode

    def not_started(self, command: str, reason: object) -> BrokenProcessError:
        """Returns the error of a system that starts no process."""
        return BrokenProcessError(
            self.unavailable,
            f"no {self.name} process could be started by {command}: {reason}; look at "
            "the memory, and at the limits of processes and of open files",
        )

    def not_passed(self, reason: object) -> BrokenProcessError:
        """Returns the error of a system that has no memory or descriptor for a request."""
        return BrokenProcessError(
            self.unavailable,
            f"no {self.sent} can be passed to {self.name} processes: {reason}; look at the "
            "memory, and at the limits of open files and of file sizes",
        )

    def lost_twice(self, ending: object) -> ImageError:
        """Returns the error of an image on which two processes were lost."""
        return ImageError(
            self.lost,
            f"two {self.name} processes were lost on this input, the last one by {ending}; "
            f"{self.cause}",
        )

    def too_late(self, seconds: float) -> ImageError:
        """Returns the error of an image that takes longer than `seconds`."""
        return ImageError(self.late, f"{self.work} took longer than {seconds:g} seconds")
