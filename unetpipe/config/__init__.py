"""Settings: one typed model, the source of defaults, schema and reference.

Numbers that follow from others (border, tile origin, memory) are computed elsewhere and are no settings.
"""

from unetpipe.config.ablation import Ablation, Dataset, Variant
from unetpipe.config.engine import Certify, Engine, Precision, Quantize
from unetpipe.config.learning import Augment, Train
from unetpipe.config.network import Network
from unetpipe.config.predicting import Evaluate, Predict, Quality, Segment
from unetpipe.config.settings import Problem, Settings, schema
from unetpipe.config.spreading import Slurm
from unetpipe.config.volumes import PHANTOM, Annotation, Instances, Phantom, Volume

__all__ = [
    "PHANTOM",
    "Ablation",
    "Annotation",
    "Augment",
    "Certify",
    "Dataset",
    "Engine",
    "Evaluate",
    "Instances",
    "Network",
    "Phantom",
    "Precision",
    "Predict",
    "Problem",
    "Quality",
    "Quantize",
    "Segment",
    "Settings",
    "Slurm",
    "Train",
    "Variant",
    "Volume",
    "schema",
]
