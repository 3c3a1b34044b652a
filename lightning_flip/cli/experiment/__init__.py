"""The ``experiment`` command: trainings that follow from each other."""
