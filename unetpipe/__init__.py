"""From a few annotated EM sections to the segmentation of a whole volume.

The package backs the rules of the Snakemake workflow: each rule calls one public function.
Importing it loads nothing heavy.
"""

import os
import sys

# Two libraries report to their makers from whatever process imports them. They are told not to before that can happen:
# a run calls no other machine. OpenVINO does so by forking amid threads, and a fork that hangs holds open what this
# process has open; it does without where the package that reports is not installed, or seems not to be.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__version__ = "0.3.0"
