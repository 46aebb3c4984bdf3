"""Quality control without labels: what the image and the probabilities themselves show."""
