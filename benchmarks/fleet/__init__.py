"""A real coordinator and any number of workers that only talk: what membership costs, without TensorFlow."""
