"""The only room that imports Ray. Ray reads some environment variables while it is imported; they are set here."""

from ecgscan_ray.runtime.ray_quirks import set_import_environment

set_import_environment()
