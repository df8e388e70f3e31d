"""The worker process: it reads its share of the records, trains, and joins and parts from rounds without restarting."""
