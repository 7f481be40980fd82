"""Large images: cut into tiles that all workers upscale, and assembled from the tiles' results.
Large images without pixels come in; results that refer to files go out. Between its steps, pixels
are in files below the `.staging/` of a scratch folder alone: none enters a shuffle. It writes the
assembled image where its caller says, but no row, record or manifest: those are `commit`'s.
"""
