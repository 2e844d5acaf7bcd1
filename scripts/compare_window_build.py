"""Aggregates a site's sealed days to steps with polars and with DuckDB; see `compare-window-build`.

Prints one JSON line per query and turn: seconds and a digest that does not depend on the engine. What is computed is
what `tftctl window build` computes of raw rows: per server and step of 300 s the mean of each metric over rows whose
status is not `offline`, the number of rows and the last status.
"""

import argparse
import json
import time

import duckdb
import polars as pl

STEP_MS = 300_000
KEYS = ["server_name", "timestamp", "profile", "status"]


def by_polars(pattern: str, metrics: list[str]) -> pl.DataFrame:
    rows = pl.scan_parquet(pattern).with_columns(
        step=(pl.col("timestamp").cast(pl.Int64) // STEP_MS) * STEP_MS,
        is_up=pl.col("status").fill_null("").str.to_lowercase() != "offline",
    )
    means = [
        pl.when("is_up").then(pl.col(name).cast(pl.Float64)).mean().cast(pl.Float32).alias(name) for name in metrics
    ]
    steps = rows.group_by("server_name", "step").agg(*means, n=pl.len(), status=pl.col("status").last())
    return steps.sort("server_name", "step").collect()


def by_duckdb(pattern: str, metrics: list[str]) -> pl.DataFrame:
    up = "filter (lower(coalesce(status, '')) <> 'offline')"
    means = ", ".join(f"cast(avg({name}) {up} as float) as {name}" for name in metrics)
    return duckdb.sql(
        f"""select server_name, epoch_ms(timestamp) // {STEP_MS} * {STEP_MS} as step, {means}, count(*) as n,
        arg_max(status, timestamp) as status from read_parquet('{pattern}')
        group by server_name, step order by server_name, step"""
    ).pl()


def digest(steps: pl.DataFrame, metrics: list[str]) -> dict:
    """The steps, the rows, and the sum of each metric's means, rounded to what float32 can promise."""
    sums = {name: float(f"{steps[name].fill_nan(None).cast(pl.Float64).sum():.5g}") for name in metrics}
    return {"steps": steps.height, "rows": int(steps["n"].sum()), "sums": sums}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", help="where the sealed days are")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    pattern = f"{given.folder}/metrics_*.parquet"
    duckdb.sql(f"set threads = {given.threads}")
    metrics = [name for name in pl.scan_parquet(pattern).collect_schema().names() if name not in KEYS]
    for name, query in [("polars", by_polars), ("duckdb", by_duckdb)]:
        begun, cpu = time.perf_counter(), time.process_time()
        steps = query(pattern, metrics)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps({"engine": name, "seconds": seconds, "cpu": cpu, "digest": digest(steps, metrics)}))


if __name__ == "__main__":
    main()
