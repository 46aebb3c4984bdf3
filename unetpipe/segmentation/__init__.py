"""Objects with numbers, from the probabilities of a volume that is cut into pieces: the same for any cut."""
