"""Entry point of `beam-upscale` and of `python -m beam_upscale`."""

import logging


def main() -> None:
    """Runs the command line."""
    # At its import Beam warns of cloud libraries that are missing and not needed.
    logging.getLogger().setLevel(logging.ERROR)
    from beam_upscale.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
