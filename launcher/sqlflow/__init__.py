"""Statements such as SELECT … TRAIN … INTO …, as SQLFlow has them: from a table to a model, and back into a table."""
