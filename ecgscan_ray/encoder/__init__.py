"""The trained page encoder for your own pages: ``load_encoder(path).embed(images)``, export, embedding of a folder.

The encoder includes its preprocessing: the whole page is fitted into the size it was trained on, never cropped.
"""

from ecgscan_ray.encoder.classes import Predictions
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.encoder.exported import export, load_encoder
from ecgscan_ray.encoder.fit import fit_page
from ecgscan_ray.encoder.folder import embed_folder
from ecgscan_ray.encoder.parts import EmbeddedFolder
from ecgscan_ray.encoder.redrawn import Redrawn
from ecgscan_ray.pictures import Picture, read_pages, read_picture

__all__ = [
    "EmbeddedFolder",
    "Encoder",
    "Picture",
    "Predictions",
    "Redrawn",
    "embed_folder",
    "export",
    "fit_page",
    "load_encoder",
    "read_pages",
    "read_picture",
]
