"""Makes results durable and shards appear: persist, commit, complete."""
