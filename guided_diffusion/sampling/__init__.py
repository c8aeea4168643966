"""New images from one model, classifier guidance, likelihood."""
