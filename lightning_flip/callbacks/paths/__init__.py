"""What a learning path records: which samples, how often, in how many bytes."""
