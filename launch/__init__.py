"""Everything that starts something: the command line, runs, workers. Only here is Ray imported."""
