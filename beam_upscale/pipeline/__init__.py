"""The transforms and runs on Beam: `ReadImages`, `Upscale`, `WriteDataset`, preview and run.
Settings and inputs come in; a complete output goes out. All decisions and prices are those of
`planning`, and nothing here depends on which runner executes a pipeline. This room talks to users
through values and errors only: text is the command line's.
"""
