"""The room that runs on Ray. Ray reads these settings while it is imported, which happens in no other room."""

import os

if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
    # Despite its name it counts on every system: with 0, all servers of a cluster started here listen on 127.0.0.1 alone.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
else:
    # One attempt of 10 s to reach the head instead of 20 of 40 s.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "10")
    # 'ray start' turns tokens on where the user has one; who joins would send none (Ray 2.60).
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if named or os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
