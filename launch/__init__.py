"""Everything that starts something: the command line, runs and workers."""
