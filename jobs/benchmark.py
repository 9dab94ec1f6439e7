"""``ecgscan benchmark`` as a Ray job; paths must be absolute, or URIs.

ray job submit --working-dir . -- python jobs/benchmark.py s3://bucket/runs/1 --suite ptbxl --out s3://bucket/benchmarks/1
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["benchmark"]
    main()
