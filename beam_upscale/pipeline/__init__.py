"""The transforms and runs on Beam: `ReadImages`, `Upscale`, `WriteDataset`, preview and run.

Settings and inputs come in; a complete output goes out, whose rows and prices were decided as
`planning` decides them. Nothing here depends on which runner executes a pipeline. This room talks
to users through values and errors only: text is the command line's.
"""
