"""Large images: cut into tiles that all workers share, and assembled from their results."""
