"""Statements such as SELECT … TRAIN … INTO …, as SQLFlow has them: from a table to a trained model, and back into one."""
