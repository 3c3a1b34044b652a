"""The gate: limits on the negative flips of an update, the decision, and its reports."""
