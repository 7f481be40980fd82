"""The steps of one image, from its bytes to its row: prepare, RunInference, finish.
An input comes in; its result goes out, with the encoded image in memory. Nothing here persists a
result or knows of other images, so that `server` takes the same steps.
"""
