"""What scripts/compare-with-pytorch-forecasting needs Python for: the library's side, the one scorer, the table.

  library --site SITE --steps N --seed S --normalizer group|encoder --to STEM
      trains the library's TemporalFusionTransformer on SITE's window as its users do (TimeSeriesDataSet, Trainer) and
      writes STEM.parquet, its forecasts of the whole holdout, and STEM.training.json, how they came to be
  score --site SITE --forecasts FILE [--exam FILE] --to FILE
      the product's exam, once more and independently: FILE may be anybody's. With --exam it must find what the
      product's own `validate` found for the same forecasts, to 1e-4, or it ends with 1
  table --site SITE --name NAME --seeds 42 43 44 --normalizers group encoder
      the scores of all sides and seeds, in Markdown; ends with 1 if the library has the lower mean loss
  field FILE KEY
      one value of a JSON file

SITE holds `settings.json` (what `tftctl config show --json` says) and `window.json` (`window build --json`).
Forecasts are in the form of `tftctl validate --forecasts`.
"""

import argparse
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")  # the libraries' talk about versions and workers

import numpy as np
import pandas as pd

CALENDAR = ["hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos", "is_weekend"]
TOLERANCE = 1e-4
BATCH_OF_FORECASTS = 256


class Window:
    """A built window as `window build` left it, with the settings it was built under."""

    def __init__(self, site):
        self.settings = {entry["key"]: entry["value"] for entry in read_json(site / "settings.json")}
        self.manifest = read_json(site / "window.json")
        self.split, self.step_secs = self.manifest["split"], self.manifest["step_secs"]
        self.metrics, self.targets = self.manifest["metrics"], self.settings["model.targets"]
        self.quantiles = self.settings["model.quantiles"]
        self.encoder_length, self.horizon = self.settings["model.encoder_length"], self.settings["model.horizon"]
        self.start = pd.Timestamp(self.manifest["start"])
        self.servers = [server["name"] for server in self.manifest["servers"]]
        self.rows = pd.read_parquet(site / "windows" / self.manifest["id"] / "steps.parquet")
        self.rows["step"] = self.step_of(self.rows["timestamp"])

    def step_of(self, times):
        return ((times - self.start).dt.total_seconds() // self.step_secs).astype(np.int64)

    def time_of(self, steps):
        return self.start + pd.to_timedelta(np.asarray(steps) * self.step_secs, unit="s")

    def values(self, metric):
        """[S, T]: NaN where nothing was observed."""
        wide = self.rows.pivot(index="server_name", columns="step", values=metric)
        return wide.reindex(index=self.servers, columns=range(self.manifest["n_steps"])).to_numpy(np.float32)

    def holdout_cutoffs(self):
        return range(max(self.split["holdout_start"], self.encoder_length), self.split["holdout_end"] - self.horizon + 1)

    def range_of(self, metric):
        [found] = [each for each in self.settings["metric"] if each["name"] == metric]
        return found.get("min"), found.get("max")


def read_json(path):
    return json.loads(Path(path).read_text())


def quantile_column(level):
    percent = f"{level * 100:.4f}".rstrip("0").rstrip(".")
    return f"p0{percent}" if level < 0.1 else f"p{percent}"


# The library's side


def frame_for_the_library(window):
    """The rows of the window with calendar and profile, as the library wants them: long, no hole, a step number."""
    rows = window.rows.sort_values(["server_name", "step"]).reset_index(drop=True)
    if rows[window.metrics].isna().any(axis=None) or len(rows) != len(window.servers) * window.manifest["n_steps"]:
        raise SystemExit("this window has holes; the comparison is made for windows without")
    zone = rows["timestamp"].dt.tz_convert(window.manifest["zone"])
    day = (zone.dt.hour * 3600 + zone.dt.minute * 60 + zone.dt.second) / 86400
    week = (zone.dt.dayofweek + day) / 7
    for name, phase in (("hour_of_day", day), ("day_of_week", week)):
        rows[f"{name}_sin"], rows[f"{name}_cos"] = np.sin(phase * 2 * np.pi), np.cos(phase * 2 * np.pi)
    rows["is_weekend"] = (zone.dt.dayofweek >= 5).astype(float)
    profiles = {server["name"]: server["profile"] for server in window.manifest["servers"]}
    rows["profile"] = rows["server_name"].map(profiles)
    return rows.drop(columns="timestamp").astype({"server_name": str, "profile": str})


def datasets(window, normalizer):
    """Training part and holdout as the library's data sets: the samples are those of the product, one for one."""
    from pytorch_forecasting import TimeSeriesDataSet
    from pytorch_forecasting.data import EncoderNormalizer, GroupNormalizer, MultiNormalizer, NaNLabelEncoder

    def normalizer_of_a_target():
        return GroupNormalizer(groups=["server_name"]) if normalizer == "group" else EncoderNormalizer()

    rows = frame_for_the_library(window)
    lengths = {"encoder_length": window.encoder_length, "prediction_length": window.horizon}
    training = TimeSeriesDataSet(
        rows[rows["step"] < window.split["train_end"]],
        time_idx="step",
        target=window.targets,
        group_ids=["server_name"],
        **{f"{side}_{name}": length for name, length in lengths.items() for side in ("min", "max")},
        static_categoricals=["server_name", "profile"],
        time_varying_known_reals=CALENDAR,
        time_varying_unknown_reals=window.metrics,
        target_normalizer=MultiNormalizer([normalizer_of_a_target() for _ in window.targets]),
        categorical_encoders={name: NaNLabelEncoder(add_nan=True) for name in ("server_name", "profile")},
        add_relative_time_idx=True,
        add_target_scales=True,
        add_encoder_length=False,
    )
    first = window.holdout_cutoffs().start
    holdout = TimeSeriesDataSet.from_dataset(
        training, rows[rows["step"] >= first - window.encoder_length], min_prediction_idx=first, stop_randomization=True,
    )
    n_expected = len(window.servers) * (window.split["train_end"] - window.encoder_length - window.horizon + 1)
    if len(training) != n_expected or len(holdout) != len(window.servers) * len(window.holdout_cutoffs()):
        raise SystemExit(f"other samples than the product's: {len(training)} and {len(holdout)}")
    return training, holdout


def learning_rate(peak, step, total):
    """src/train/lr_schedule.rs: a short warm-up, then a cosine down to a hundredth."""
    warm_up = math.floor(min(max(total * 0.05, 1), 500))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    share_done = min((step - warm_up) / max(total - 1 - warm_up, 1), 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share_done)))


def train_library(window, training, steps, seed):
    import lightning.pytorch as pl
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import MultiLoss, QuantileLoss

    settings = window.settings

    class Schedule(pl.Callback):
        losses = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = learning_rate(settings["training.learning_rate"], trainer.global_step, steps)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.losses.append(float(outputs["loss"]))

    pl.seed_everything(seed, verbose=False)
    model = TemporalFusionTransformer.from_dataset(
        training,
        hidden_size=settings["model.hidden_size"],
        hidden_continuous_size=settings["model.hidden_continuous_size"],
        attention_head_size=settings["model.attention_heads"],
        lstm_layers=settings["model.lstm_layers"],
        dropout=settings["model.dropout"],
        loss=MultiLoss([QuantileLoss(quantiles=window.quantiles) for _ in window.targets]),
        learning_rate=settings["training.learning_rate"],
        optimizer="adamw",
        weight_decay=settings["training.weight_decay"],
        log_interval=-1,
    )
    schedule = Schedule()
    trainer = pl.Trainer(
        max_steps=steps, gradient_clip_val=settings["training.gradient_clip"], callbacks=[schedule], **quiet_trainer(),
    )
    begun, cpu = time.monotonic(), time.process_time()
    loader = training.to_dataloader(train=True, batch_size=settings["training.batch_size"], num_workers=0)
    trainer.fit(model, train_dataloaders=loader)
    if trainer.global_step != steps:
        raise SystemExit(f"the library took {trainer.global_step} steps, asked were {steps}")
    record = {
        "optimizer_steps": trainer.global_step, "seed": seed, "n_weights": sum(p.numel() for p in model.parameters()),
        "duration_secs": time.monotonic() - begun, "cpu_secs": time.process_time() - cpu,
        "losses": [float(np.mean(part)) for part in np.array_split(schedule.losses, min(10, steps))],
    }
    return model, record


def quiet_trainer():
    return {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }


def forecasts_of_library(window, model, holdout):
    """Sorted quantiles of every point of the holdout, as a table."""
    loader = holdout.to_dataloader(train=False, batch_size=BATCH_OF_FORECASTS, num_workers=0)
    quiet = {key: value for key, value in quiet_trainer().items() if key != "enable_progress_bar"}
    found = model.predict(loader, mode="quantiles", return_index=True, trainer_kwargs=quiet)
    cutoffs, servers = found.index["step"].to_numpy(), found.index["server_name"].to_numpy()
    parts = []
    for target, output in zip(window.targets, found.output):
        quantiles = np.sort(output.numpy().astype(np.float32), axis=-1)  # [N, H, Q]
        n_samples, horizon, _ = quantiles.shape
        part = pd.DataFrame({
            "server_name": np.repeat(servers, horizon), "metric": target,
            "cutoff": window.time_of(np.repeat(cutoffs, horizon)),
            "step_ahead": np.tile(np.arange(1, horizon + 1, dtype=np.uint32), n_samples),
        })
        for at, level in enumerate(window.quantiles):
            part[quantile_column(level)] = quantiles[..., at].reshape(-1)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def library(args):
    import lightning
    import pytorch_forecasting
    import torch

    torch.set_num_threads(int(THREADS))
    window = Window(args.site)
    training, holdout = datasets(window, args.normalizer)
    model, record = train_library(window, training, args.steps, args.seed)
    forecasts_of_library(window, model, holdout).to_parquet(args.to.with_suffix(".parquet"), index=False)
    versions = {each.__name__: each.__version__ for each in (pytorch_forecasting, torch, lightning)}
    record |= {"normalizer": args.normalizer, "threads": int(THREADS), "versions": versions}
    args.to.with_suffix(".training.json").write_text(json.dumps(record, indent=2) + "\n")


# The scorer


def divisors(window, series):
    """[S]: mean absolute change from one day to the next in the training part, at least a tenth of the fleet's mean.

    src/evaluate/divisor.rs; `series` is [S, T] of one target.
    """
    per_day, train_end = max(86400 // window.step_secs, 1), window.split["train_end"]
    lag = per_day if train_end > per_day + 12 else 1
    known = series[:, :train_end]
    changes = np.abs(known[:, lag:] - known[:, :-lag]).astype(np.float64)
    n, sums = np.isfinite(changes).sum(axis=1), np.nansum(changes, axis=1)
    own = np.where((n >= 12) & (sums > 0), sums / np.maximum(n, 1), np.nan)
    fleet = np.nanmean(own) if np.isfinite(own).any() else 1.0
    return np.where(np.isfinite(own), np.maximum(own, 0.1 * fleet), fleet)


def score_target(window, target, rows):
    """Scores of one target's rows: exam loss, quantile loss in the own unit, error of the median, coverage."""
    series = window.values(target)
    server = pd.Categorical(rows["server_name"], categories=window.servers).codes
    truth = series[server, window.step_of(rows["cutoff"]) + rows["step_ahead"] - 1]
    low, high = window.range_of(target)
    served = rows[[quantile_column(level) for level in window.quantiles]].to_numpy(np.float32)
    served = np.clip(np.sort(served, axis=1), low, high) if (low, high) != (None, None) else np.sort(served, axis=1)
    known = np.isfinite(truth)
    truth, served, server = truth[known].astype(np.float64), served[known].astype(np.float64), server[known]
    if not np.isfinite(served).all():
        raise SystemExit(f"forecasts of {target} that are no numbers")
    errors, levels = truth[:, None] - served, np.array(window.quantiles)
    costs = np.maximum(levels * errors, (levels - 1) * errors)
    scaled = costs.mean(axis=1) / divisors(window, series)[server]
    median, p10, p90 = (window.quantiles.index(level) for level in (0.5, 0.1, 0.9))
    return {
        "name": target, "n_points": int(known.sum()), "loss": scaled.mean(), "quantile_loss": costs.mean(),
        "mae": np.abs(errors[:, median]).mean(),
        "coverage": ((served[:, p10] <= truth) & (truth <= served[:, p90])).mean(),
        "per_quantile": costs.mean(axis=0).tolist(),
    }


def ensure_agreement(score, exam):
    """The product's own numbers for the same forecasts: a scorer that finds others must not compare anybody."""
    own = next(scores for scores in exam["scores"] if scores["forecaster"] == "challenger")
    pairs = [("loss", score["loss"], own["loss"])]
    for ours, theirs in zip(score["targets"], own["targets"], strict=True):
        pairs.append((ours["name"], ours["loss"], theirs["slice"]["loss"]))
        pairs.append((f"{ours['name']} in its unit", ours["quantile_loss"], theirs["quantile_loss"]))
        pairs.append((f"points of {ours['name']}", ours["n_points"], theirs["slice"]["n_points"]))
    for what, here, there in pairs:
        if abs(here - there) > TOLERANCE * abs(there):
            raise SystemExit(f"the scorer is wrong: {what} is {here}, `validate` says {there}")


def score(args):
    window = Window(args.site)
    rows = pd.read_parquet(args.forecasts)
    n_expected = len(window.servers) * len(window.holdout_cutoffs()) * window.horizon * len(window.targets)
    if len(rows) != n_expected:
        raise SystemExit(f"{args.forecasts} has {len(rows)} rows, the holdout {n_expected}")
    if rows["cutoff"].dt.tz is None:
        rows["cutoff"] = rows["cutoff"].dt.tz_localize("UTC")
    targets = [score_target(window, target, rows[rows["metric"] == target]) for target in window.targets]
    mean = {key: float(np.mean([target[key] for target in targets])) for key in ("loss", "quantile_loss", "coverage")}
    result = mean | {"targets": targets}
    if args.exam:
        ensure_agreement(result, read_json(args.exam))
    args.to.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{args.forecasts.stem}: loss {result['loss']:.4f}, quantile loss {result['quantile_loss']:.5f}", file=sys.stderr)


# The table


def spread(values, digits=4):
    """The mean over seeds, with the lowest and the highest."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*cells):
    row(*cells)
    row("---", *["--:"] * (len(cells) - 1))


def table(args):
    """Prints the tables of one data set; ends with 1 if any side of the library has a lower mean loss than ours."""
    names = {"ours": "tftctl"} | {f"library-{each}": f"pytorch-forecasting, {each}" for each in args.normalizers}
    read = {side: [read_json(args.site / f"{side}-{seed}.score.json") for seed in args.seeds] for side in names}
    trained = {
        side: [read_json(args.site / f"{side}-{seed}.training.json") for seed in args.seeds] for side in names
    }
    losses = {side: [score["loss"] for score in scores] for side, scores in read.items()}
    steps = {record["optimizer_steps"] for records in trained.values() for record in records}
    if len(steps) != 1:
        raise SystemExit(f"runs of different lengths cannot be compared: {sorted(steps)} steps")
    print(f"\n## {args.name}, {steps.pop()} optimizer steps, seeds {' '.join(map(str, args.seeds))}\n")
    head("", "loss of the exam", "tftctl's / this", "quantile loss", "P10-P90", "weights")
    for side, name in names.items():
        row(
            name, spread(losses[side]), f"{np.mean(losses['ours']) / np.mean(losses[side]):.3f}",
            spread([score["quantile_loss"] for score in read[side]], 5),
            f"{np.mean([score['coverage'] for score in read[side]]):.0%}", trained[side][0]["n_weights"],
        )
    print()
    head("loss by target", *names.values())
    for at, target in enumerate(read["ours"][0]["targets"]):
        row(target["name"], *(spread([score["targets"][at]["loss"] for score in read[side]]) for side in names))
    return int(any(np.mean(losses[side]) < np.mean(losses["ours"]) for side in names))


def field(args):
    print(read_json(args.file)[args.key])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("library")
    command.set_defaults(run=library)
    command.add_argument("--site", type=Path, required=True)
    command.add_argument("--steps", type=int, required=True)
    command.add_argument("--seed", type=int, required=True)
    command.add_argument("--normalizer", choices=["group", "encoder"], default="group")
    command.add_argument("--to", type=Path, required=True)
    command = commands.add_parser("score")
    command.set_defaults(run=score)
    command.add_argument("--site", type=Path, required=True)
    command.add_argument("--forecasts", type=Path, required=True)
    command.add_argument("--exam", type=Path)
    command.add_argument("--to", type=Path, required=True)
    command = commands.add_parser("table")
    command.set_defaults(run=table)
    command.add_argument("--site", type=Path, required=True)
    command.add_argument("--name", required=True)
    command.add_argument("--seeds", type=int, nargs="+", required=True)
    command.add_argument("--normalizers", nargs="+", required=True)
    command = commands.add_parser("field")
    command.set_defaults(run=field)
    command.add_argument("file", type=Path)
    command.add_argument("key")
    args = parser.parse_args()
    sys.exit(args.run(args))


if __name__ == "__main__":
    main()
