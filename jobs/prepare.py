"""``ecgscan prepare`` as a Ray job; paths must be absolute, or URIs.

ray job submit --working-dir . -- python jobs/prepare.py --source ptbxl --from s3://bucket/ptb-xl --to s3://bucket/store
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["prepare"]
    main()
