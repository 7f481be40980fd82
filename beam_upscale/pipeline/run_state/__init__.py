"""The state of a run besides its inputs: holds, earlier results, stop requests, bookings, arrivals.
Inputs and their output come in; what the run knows of them goes out. Nothing here upscales an image
or commits a shard.
"""
