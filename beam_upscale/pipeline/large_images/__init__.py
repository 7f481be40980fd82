"""Large images: cut into tiles that all workers upscale, and assembled from the tiles' results.

Large images without pixels come in, results that refer to files go out. Between its steps, pixels
are in files of a scratch folder alone: none enters a shuffle. It knows no dataset; `commit` takes
care of the results.
"""
