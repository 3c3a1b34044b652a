"""What a prediction writer keeps of a pass, and the files it becomes."""
