"""``ecgscan prepare`` as a Ray job. The archive is a local folder that every node sees; the store may be a URI.

ray job submit --working-dir . -- python jobs/prepare.py --source ptbxl --from /shared/ptb-xl --to s3://bucket/store
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["prepare"]
    main()
