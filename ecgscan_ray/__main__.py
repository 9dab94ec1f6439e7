"""``python -m ecgscan_ray`` is ``ecgscan``."""

from ecgscan_ray.cli import main

if __name__ == "__main__":
    main()
