"""Runs a decoder as a process."""

from beam_upscale.images.decoding.child import main

if __name__ == "__main__":
    main()
