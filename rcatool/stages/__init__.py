"""The commands of the pipeline, one module each; they talk to each other through files only."""
