"""Runs under an interpreter that has other renderers installed: ms a page of each that it can import, as JSON.

``python peers.py SIGNAL.npy FS``. It stands alone, so that nothing of these programs is imported by ours.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable

import numpy as np

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def ecg_plot(signal: np.ndarray, fs: float) -> Callable[[], None]:
    import ecg_plot as peer  # type: ignore[import-not-found]
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def page() -> None:
        peer.plot(signal, sample_rate=fs, title="", columns=4)
        plt.gcf().savefig(io.BytesIO(), format="raw", dpi=40)
        plt.close("all")

    return page


def pmecg(signal: np.ndarray, fs: float) -> Callable[[], None]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas
    import pmecg as peer  # type: ignore[import-not-found]

    frame, rows = pandas.DataFrame(signal.T, columns=LEADS), [LEADS[row::3] for row in range(3)]

    def page() -> None:
        figure = peer.ECGPlotter().plot(frame, configuration=rows, sampling_frequency=fs)
        figure = figure[0] if isinstance(figure, tuple) else figure
        figure.savefig(io.BytesIO(), format="raw", dpi=40)
        plt.close("all")

    return page


def main() -> None:
    signal, fs = np.load(sys.argv[1]), float(sys.argv[2])
    times = {}
    for make in (ecg_plot, pmecg):
        try:
            page = make(signal, fs)
            page()
            taken = []
            for _ in range(5):
                start = time.thread_time()
                page()
                taken.append(time.thread_time() - start)
            times[make.__name__] = 1e3 * sorted(taken)[2]
        except Exception as error:  # an interpreter without it, or another version of it
            print(f"{make.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
