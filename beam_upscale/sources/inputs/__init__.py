"""The values of inputs: `SourceImage`, listings, and the rule that results are no inputs."""
