"""``ecgscan prepare`` as a Ray job. The archive is in a bucket, or in a folder that every node has mounted under the same path.

ray job submit --working-dir . -- python jobs/prepare.py --source ptbxl --from /mnt/ptb-xl-1.0.3 --to s3://bucket/store
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["prepare"]
    main()
