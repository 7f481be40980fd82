"""What a run knows besides its inputs: earlier results, stop requests, bookings, arrivals."""
