"""What the commands of `edl` are and do, and how a command line is read."""
