"""Scores of a segmentation: by voxel, by threshold, by segment; and the baselines that stand beside them."""
