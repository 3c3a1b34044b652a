"""An update of a model: the predictions of the old and the new one joined, and compared."""
