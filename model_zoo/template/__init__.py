"""What `edl zoo init` copies: a first model of one's own."""
