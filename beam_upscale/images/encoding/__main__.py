"""Runs an encoder as a process."""

from beam_upscale.images.encoding.child import main

if __name__ == "__main__":
    main()
