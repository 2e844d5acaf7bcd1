"""Two days of 20 servers, every 5 seconds, 14 metrics, as pandas, polars and tftctl store them; see `parquet-sizes`.

Prints a table of bytes per row, checks the bounds, reads tftctl's files back with pandas, polars and DuckDB, and
compares every value bit for bit. Exits 1 if anything is not as promised.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import duckdb
import numpy as np
import pandas as pd
import polars as pl

SERVERS, STEPS, STEP_MS = 20, 17_280, 5_000
DAY = "2024-01-15"
# Name, mean, spread: an hour-long memory around the mean, well inside of the metric's range.
METRICS = [
    ("cpu_user_pct", 40, 8), ("cpu_sys_pct", 50, 6), ("cpu_iowait_pct", 40, 5), ("cpu_idle_pct", 50, 8),
    ("java_cpu_pct", 45, 8), ("mem_used_pct", 50, 4), ("swap_used_pct", 45, 3), ("disk_usage_pct", 50, 2),
    ("net_in_mb_s", 80, 12), ("net_out_mb_s", 60, 10), ("back_close_wait", 90, 9), ("front_close_wait", 70, 8),
    ("load_average", 30, 4), ("uptime_days", 60, 2),
]  # fmt: skip
KEYS = ["server_name", "timestamp"]


def day(decimals: int | None) -> pd.DataFrame:
    """A day as float64, sorted by server and time: autoregressive noise, rounded or with all its bits."""
    rng = np.random.default_rng(7)
    start = pd.Timestamp(DAY).value // 1_000_000
    times = start + STEP_MS * np.arange(STEPS)
    columns = {
        "timestamp": pd.to_datetime(np.tile(times, SERVERS), unit="ms", utc=True).as_unit("ms"),
        "server_name": np.repeat([f"ppdb{idx:03}" for idx in range(SERVERS)], STEPS),
    }
    for name, mean, spread in METRICS:
        noise = rng.normal(size=(STEPS, SERVERS)) * np.sqrt(1 - 0.99**2)
        series = np.empty((STEPS, SERVERS))
        state = rng.normal(size=SERVERS)
        for step in range(STEPS):
            state = 0.99 * state + noise[step]
            series[step] = state
        values = (mean + spread * series).T.ravel()
        columns[name] = values if decimals is None else values.round(decimals)
    return pd.DataFrame(columns)


def as_float32(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: np.float32 for name, _, _ in METRICS})


def ours(frame: pd.DataFrame, folder: pathlib.Path, tftctl: str) -> pathlib.Path:
    """The day as `tftctl buffer append` and `buffer rotate` leave it."""
    site = folder / "site"
    feed = folder / "feed.parquet"
    as_float32(frame).to_parquet(feed)
    subprocess.run([tftctl, "init", str(site)], check=True, stdout=subprocess.DEVNULL)
    now = ["--config", str(site), "--now", "2024-01-16T00:10:00Z", "--quiet"]
    for command in (["append", str(feed)], ["rotate"]):
        subprocess.run([tftctl, "buffer", *command, *now], check=True, stdout=subprocess.DEVNULL)
    return site / "data_buffer" / f"metrics_{DAY}.parquet"


def readers(path: pathlib.Path) -> dict:
    """The file as each package reads it, and the seconds that took."""
    reads = {
        "pandas": lambda: pd.read_parquet(path),
        "polars": lambda: pl.read_parquet(path).to_pandas(),
        "duckdb": lambda: duckdb.sql(f"select * from read_parquet('{path}')").df(),
    }
    found = {}
    for name, read in reads.items():
        begun = time.perf_counter()
        found[name] = (read(), time.perf_counter() - begun)
    return found


def differences(expected: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What of `found` is not, to the bit, what was written."""
    found = found.sort_values(KEYS).reset_index(drop=True)
    wrong = []
    if list(found["server_name"]) != list(expected["server_name"]):
        wrong.append("server_name")
    to_ms = lambda column: pd.DatetimeIndex(column).tz_convert("UTC").as_unit("ms").asi8  # noqa: E731
    if not np.array_equal(to_ms(found["timestamp"]), to_ms(expected["timestamp"])):
        wrong.append("timestamp")
    for name, _, _ in METRICS:
        values = found[name].to_numpy()
        if values.dtype != np.float32:
            wrong.append(f"{name} is {values.dtype}")
        elif not np.array_equal(values.view(np.uint32), expected[name].to_numpy().view(np.uint32)):
            wrong.append(name)
    return wrong


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tftctl", help="the program")
    tftctl = arguments.parse_args().tftctl
    broken = []
    print(f"pandas {pd.__version__}, polars {pl.__version__}, duckdb {duckdb.__version__}; bytes per row")
    for label, decimals in [("two decimals", 2), ("full entropy", None)]:
        source = day(decimals)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            narrow = as_float32(source)
            files = {"pandas float64": source, "pandas float32": narrow}
            for what, frame in files.items():
                frame.to_parquet(folder / what)
            pl.from_pandas(narrow).write_parquet(folder / "polars float32")
            sizes = {what: (folder / what).stat().st_size for what in [*files, "polars float32"]}
            path = ours(source, folder, tftctl)
            sizes["tftctl"] = path.stat().st_size
            for what, size in sizes.items():
                print(f"  {label}  {what:15} {size / len(source):7.2f}  tftctl / this {sizes['tftctl'] / size:.3f}")
            for reader, (frame, seconds) in readers(path).items():
                wrong = differences(narrow, frame)
                print(f"  {label}  read by {reader:7} {seconds:6.2f} s  {'equal to the bit' if not wrong else wrong}")
                broken += [f"{label}: {reader} reads {what} differently" for what in wrong]
        bounds = {
            "two decimals": [("polars float32", 0.75), ("pandas float32", 1.0)],
            "full entropy": [("pandas float64", 0.35), ("polars float32", 1.0)],
        }
        for what, bound in bounds[label]:
            if sizes["tftctl"] > bound * sizes[what]:
                broken.append(f"{label}: more than {bound} of {what}")
    for line in broken:
        print(f"broken: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
