"""The room that runs on Ray. Ray reads these settings while it is imported, which happens nowhere else."""

import os

STARTS_ITS_OWN = os.environ.get("RAY_ADDRESS", "") in ("", "local")
"""Whether this process starts a cluster instead of joining one."""

if STARTS_ITS_OWN:
    # Despite its name it counts on every system: with 0, all of Ray's servers listen on 127.0.0.1 alone.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
else:
    # One attempt of 10 s to reach the head instead of 20 of 40 s.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "10")
