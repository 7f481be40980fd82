"""The state of a run besides its inputs: earlier results, stop requests, bookings, arrivals."""
