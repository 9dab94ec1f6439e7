"""``ecgscan finetune`` as a Ray job; paths must be absolute, or URIs.

ray job submit --working-dir . -- python jobs/finetune.py s3://bucket/runs/1 --task superclass --out s3://bucket/superclass
"""

import sys

from ecgscan_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune"]
    main()
