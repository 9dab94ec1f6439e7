"""The command line: parse the arguments, load the settings, call one function, print the result, exit with a status.

0 = success, 1 = the work failed, 2 = bad input, 130 = interrupted. Heavy packages are imported inside the verb that needs
them, so that ``--help`` answers at once.
"""

from ecgscan_ray.cli import page_verbs as _page_verbs  # noqa: F401 - importing them registers them with the app
from ecgscan_ray.cli import task_verbs as _task_verbs  # noqa: F401
from ecgscan_ray.cli import verbs as _verbs  # noqa: F401
from ecgscan_ray.cli.group import app, main

__all__ = ["app", "main"]
