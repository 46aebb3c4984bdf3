"""The certificate of an engine, which says what ``certify`` would have found."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from unetpipe.files import digest, write_json
from unetpipe.grid import Geometry


def write_certificate(folder: Path, geometry: Geometry, **others: Any) -> Path:
    """``certificate.json`` in ``folder``, of the engine there or of one that nobody calls, with ``others``."""
    engine = folder / "engine"
    path = folder / "certificate.json"
    write_json(
        path,
        {
            "geometry": asdict(geometry),
            "engine_digest": digest(engine) if engine.is_file() else "e" * 64,
            "device_class": "some processor",
            "backend": "onnxruntime",
            "precision": "fp32",
            "versions": {},
            "profile": None,
        }
        | others,
    )
    return path
