"""Elastic allreduce training for TensorFlow and Keras on Horovod: what every part of it builds on."""

__version__ = "0.1.0"
