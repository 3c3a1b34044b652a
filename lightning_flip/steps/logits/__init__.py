"""Which tensor of a step holds its logits: searched for in the first step, caught in later ones."""
