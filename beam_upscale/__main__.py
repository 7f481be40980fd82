"""Entry point of `beam-upscale` and of `python -m beam_upscale`."""

import logging
import os

from beam_upscale.pipeline.termination import raising_at_sigterm


def main() -> None:
    """Runs the command line."""
    _open_standard_streams()
    # gRPC's own log tells of every connection that a server closes because it was idle.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # At its import Beam warns of cloud libraries that are missing and not needed.
    logging.getLogger().setLevel(logging.ERROR)
    with raising_at_sigterm():
        from beam_upscale.cli.main import main as command_line

        command_line()


def _open_standard_streams() -> None:
    """Opens the standard streams that this process was started without.

    Else the next files that are opened, such as pipes to decoders, get their numbers, and whatever
    a library prints goes into them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


if __name__ == "__main__":
    main()
