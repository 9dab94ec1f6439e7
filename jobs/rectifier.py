"""``ecgscan rectifier`` as a Ray job; paths must be absolute, or URIs.

ray job submit --working-dir . -- python jobs/rectifier.py --preset rectifier --store s3://bucket/store --out s3://bucket/reader
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["rectifier"]
    main()
