"""Makes the Docker images in which pods find a model zoo."""
