# The tables of scripts/learning-runs, in Markdown, and the question whether the naive forecasts are beaten. It is given
# $name, and as lists $window (what `window build --json` says, one entry), $trained and $exams (what `train --json` and
# `validate --json` say, one entry per seed). Losses are the exam's: in day-to-day changes of the series.

def naive_names: ["persistence", "seasonal_naive_day", "seasonal_naive_week"];

# A positive number with so many digits after the point: jq's own way of writing numbers drops zeros.
def fixed($digits):
  if . == null then "-"
  else
    (. * pow(10; $digits) | round | tostring) as $all
    | ([$digits + 1 - ($all | length), 0] | max) as $n_missing
    | ([range($n_missing) | "0"] | add // "") + $all
    | if $digits == 0 then . else .[:-$digits] + "." + .[-$digits:] end
  end;
# Three digits that count: targets have units of their own.
def short: if . == 0 then "0" else . as $x | log10 | floor | [2 - ., 0] | max as $digits | $x | fixed($digits) end;
def mean: add / length;
def row: "| " + join(" | ") + " |";
def head: row, (map("--:") | .[0] = "---" | row);

def scores_of($who): [$exams[] | .scores[] | select(.forecaster == $who)];
def naives: [naive_names[] | select(scores_of(.) | length == ($exams | length))];
def naive_titles: [naives[] | ltrimstr("seasonal_") | sub("_"; " ")];
# No seed moves a naive forecast: the first exam says it all.
def of_naives(part): [naives[] as $who | scores_of($who)[0] | part];

# The mean over the seeds, with the lowest and the highest.
def spread_of_seeds: map(.loss) | (mean | fixed(4)) as $mean
  | if length == 1 then $mean else "\($mean) (\(min | fixed(4)) .. \(max | fixed(4)))" end;
def coverage: [.[].coverage | values] | if length == 0 then "-" else (mean * 100 | fixed(0)) + " %" end;

# One line per group, which `as_text` names: ours, the naive forecasts, ours over the best of them, the share of truths
# in P10..P90.
def comparison($title; slices; as_text):
  ([$title, "ours"] + naive_titles + ["ours / best naive", "P10-P90"] | head),
  ([scores_of("challenger")[0] | slices | .name][] as $group
    | [scores_of("challenger")[] | slices | select(.name == $group)] as $ours
    | of_naives(slices | select(.name == $group) | .loss) as $others
    | (($ours | map(.loss) | mean) / ($others | min)) as $ratio
    | [($group | as_text), ($ours | spread_of_seeds)] + ($others | map(fixed(4)))
      + [($ratio | fixed(2)), ($ours | coverage)] | row);

# `h009-016`, steps ahead, as hours ahead.
def hours: ($window[0].step_secs / 3600) as $step
  | ltrimstr("h") | split("-") | map(tonumber) | "\((.[0] - 1) * $step) .. \(.[1] * $step) h";

# The same per target in its own unit, beside the error of the median.
def own_units:
  (["target", "unit", "ours"] + naive_titles + ["ours / best naive", "MAE of P50"] | head),
  (scores_of("challenger")[0].targets[].slice.name as $target
    | [scores_of("challenger")[].targets[] | select(.slice.name == $target)] as $ours
    | of_naives(.targets[] | select(.slice.name == $target) | .quantile_loss) as $others
    | ($ours | map(.quantile_loss) | mean) as $loss
    | [$target, ($ours[0].unit | if . == "" then "-" else . end), ($loss | short)] + ($others | map(short))
      + [($loss / ($others | min) | fixed(2)), ($ours | map(.mae) | mean | short)] | row);

def runs:
  (["seed", "verdict", "train loss, epoch by epoch", "exam loss", "samples/s", "training"] | head),
  (range($trained | length) as $i | $trained[$i] as $run | $exams[$i] as $exam
    | [($run.seed | tostring), $exam.outcome, ($run.losses | map(fixed(4)) | join(" ")), ($exam.loss | fixed(4)),
       ($run.samples_per_s | fixed(0)), ($run.duration_secs / 60 | fixed(1)) + " min"] | row);

def tables:
  $window[0] as $window | $window.split as $split
  | "## \($name)", "",
    "\($window.servers | length) servers, \($window.first_day) .. \($window.end_day), \($window.n_steps) steps of "
    + "\($window.step_secs / 60) min. Trained up to step \($split.train_end) (\($window.quality.n_train_samples) samples "
    + "an epoch), examined on \($split.holdout_start) .. \($split.holdout_end) (\($exams[0].n_samples) samples); "
    + "\($trained[0].n_weights) weights.",
    "", runs,
    "", comparison("all"; {name: "all", loss, coverage}; .),
    "", comparison("ahead"; .horizons[]; hours),
    "", comparison("target"; .targets[].slice; .),
    "", own_units,
    "", comparison("server"; .servers[]; .),
    "";

# Whether every seed beats every naive forecast; one that is missing from an exam is not beaten.
def all_beaten: all($exams[]; . as $exam | all(naive_names[]; . as $naive
  | [$exam.scores[] | select(.forecaster == $naive)] | length == 1 and $exam.loss < .[0].loss));
