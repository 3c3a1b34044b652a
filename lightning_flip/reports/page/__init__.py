"""The HTML report of recorded runs, and of an old and a new model."""
