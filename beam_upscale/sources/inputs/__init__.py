"""The values of inputs: `SourceImage`, listings, and the rule that results are no inputs.
Locations, ids and own columns come in; values that can read their bytes go out. Nothing here knows
a format.
"""
