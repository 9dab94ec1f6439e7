"""A file as it is, by its name alone: to look at what was put aside."""

from __future__ import annotations

import os

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.channels import Channels
from ecgscan_ray.recording.formats.dicom import read_dicom
from ecgscan_ray.recording.formats.edf import read_edf
from ecgscan_ray.recording.header import read_header
from ecgscan_ray.recording.wfdb import read_channels

_READERS = {".dcm": read_dicom, ".edf": read_edf, ".bdf": read_edf}


def read_original(uri: str) -> Channels:
    """All signals of a WFDB record, an EDF or a DICOM file; arrays do not say what they hold.

    Args:
        uri: Of the file; of a WFDB record, without ending.

    Raises:
        RecordingError: It is not there, or cannot be read.
        StoreError: The storage cannot be read.
    """
    root, _, name = uri.rpartition("/")
    archive, read = ArchiveFiles(root), _READERS.get(os.path.splitext(name)[1].lower())
    if read is None:
        return _read_wfdb(archive, name)
    try:
        with archive.open(name, whole=True) as file:
            return read(file, uri)
    except OSError as error:
        raise RecordingError(f"missing file ({error.strerror})", reason="missing_file", where=uri) from None


def _read_wfdb(archive: ArchiveFiles, name: str) -> Channels:
    header = f"{name}.hea"
    with archive.local([header]) as folder:
        files = [signal.file for signal in read_header(str(folder / name)).signals]
    with archive.local([header, *files]) as folder:
        return read_channels(folder / name)
