"""``ecgscan embed`` as a Ray job; paths must be absolute, or URIs.

ray job submit --working-dir . -- python jobs/embed.py s3://bucket/encoder s3://bucket/scans s3://bucket/features.parquet
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["embed"]
    main()
