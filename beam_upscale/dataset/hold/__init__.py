"""A run's hold on its output: one output has one writer at a time.
An output's root and a run's token come in; a `Hold` goes out, which allows each write and deletion,
or raises. It writes below the output's `.staging/` only, and knows neither rows nor images.
"""
