"""The state of a run: its listing, holds, earlier results, stop requests, bookings and arrivals.
Inputs and their output come in; what the run knows of them goes out. Nothing here upscales an image
or commits a shard.
"""
