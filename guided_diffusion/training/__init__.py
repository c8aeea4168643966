"""Training: the loop, mixed precision, resuming, starting weights, the classifier."""
