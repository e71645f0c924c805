"""What a training step or a decoded token takes on a TPU that is not here."""
