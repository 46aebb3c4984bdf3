"""From a few annotated EM sections to the segmentation of a whole volume.

The package backs the rules of the Snakemake workflow: each rule calls one public function.
Importing it loads nothing heavy.
"""

__version__ = "0.3.0"
