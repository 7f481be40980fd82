"""Measures whole runs of the installed command, beside other tools that do the same work.

    python -m benchmarks.pipeline --output benchmarks/results
    python -m benchmarks.pipeline --parts throughput growth --repeats 1
    python -m benchmarks.pipeline.check

A part yields rows: one for each process that was measured, with nothing in it but what was measured
and how. Ratios and means are computed from the rows (`figures`), by whoever prints, compares or
draws them, so that the file of raw numbers says all there is.
"""
