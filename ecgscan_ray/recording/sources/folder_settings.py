"""``recordings.yaml``: what a user states of the table and the arrays of a folder, where it cannot be found out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ecgscan_ray import strict_yaml
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.formats.arrays import Arrays
from ecgscan_ray.recording.sources.table import Form

SETTINGS = "recordings.yaml"
COLUMNS = ("record", "patient_id", "report", "labels", "age", "sex", "fold", "split")
Column = Literal["record", "patient_id", "report", "labels", "age", "sex", "fold", "split"]


class TableSettings(BaseModel):
    """What is stated of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    """Name of the table, from the folder."""
    encoding: str | None = None
    """As Python calls it: utf-8, latin-1, cp1252, cp437, mac_roman, utf-16, ..."""
    separator: str | None = None
    """One letter."""
    columns: dict[Column, str] = {}
    """Our name of a column: the table's."""
    values: dict[Column, dict[str, str]] = {}
    """Our name of a column: text in the table: what it means."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        try:
            b"a".decode(encoding or "utf-8")
        except LookupError:
            raise ValueError(f"no encoding is called {encoding}") from None
        except UnicodeDecodeError:  # of two bytes a letter
            pass
        return encoding

    @field_validator("separator")
    @classmethod
    def _is_a_letter(cls, separator: str | None) -> str | None:
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise ValueError(f"{separator!r} is not one letter")
        return separator

    def form(self) -> Form:
        """The same, for reading the table."""
        values = {
            str(column): {text.strip().lower(): meaning for text, meaning in meanings.items()}
            for column, meanings in self.values.items()
        }
        return Form(self.encoding, self.separator, {str(name): text for name, text in self.columns.items()}, values)


class FolderSettings(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: TableSettings = TableSettings()
    arrays: Arrays | None = None


def read_settings(archive: ArchiveFiles) -> FolderSettings:
    """The settings of a folder; the defaults where it has none.

    Raises:
        ConfigError: They are not understood, with the key.
    """
    if not archive.exists(SETTINGS):
        return FolderSettings()
    where = archive.uri(SETTINGS)
    content = strict_yaml.parse(archive.read(SETTINGS, strict_yaml.MAX_BYTES + 1), where)
    try:
        return FolderSettings.model_validate({} if content is None else content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{key}: {first['msg']}", where=where) from None
