"""What the benchmarks share: flags, the machine, paired measurements, statistics, JSON and plots."""
