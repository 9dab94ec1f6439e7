"""Files that come with the package: the sample of recordings, and the reader's weights."""

from importlib import resources
from pathlib import Path


def reader_weights() -> Path:
    """The weights of the page reader."""
    return Path(str(resources.files("ecgscan_ray"))) / "data" / "weights" / "reader.safetensors"
