//! `buffer import`: old files, or the history that a Prometheus server has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;

use super::append::{self, AppendArgs, Format};
use crate::buffer::{Buffer, ImportPlan, ImportReport, PrometheusImport};
use crate::cli::context::Context;
use crate::cli::text;
use crate::clock::parse_time;
use crate::config::PrometheusConfig;
use crate::error::{Exit, HintExt, Refusal};
use crate::secrets::SecretSource;
use crate::site::Site;

#[derive(Args)]
pub struct ImportArgs {
    /// Files of records, as `buffer append` takes them; those older than the retention are left out, not quarantined
    #[arg(required_unless_present = "prometheus")]
    files: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "prometheus")]
    format: Format,
    /// Names and units are the site's own, as `buffer export` writes them: map nothing
    #[arg(long, conflicts_with = "prometheus")]
    plain: bool,
    /// Exit 4 if any row was bad (the good ones are taken all the same)
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    prometheus: PrometheusArgs,
}

/// What is not given comes from the `[prometheus]` table of the config.
#[derive(Args)]
struct PrometheusArgs {
    /// Fetch from this server [default without URL: the config's prometheus.url]
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "", conflicts_with = "files")]
    prometheus: Option<String>,
    /// The PromQL that gives a metric, again for each; replaces the config's queries
    #[arg(long = "query", value_name = "METRIC=PROMQL", value_parser = parse_pair, requires = "prometheus")]
    queries: Vec<(String, String)>,
    /// The first time asked for
    #[arg(long, value_name = "TIME", requires = "prometheus")]
    start: Option<String>,
    /// Times from here on are not asked for [default: the present; run it again to go on from there]
    #[arg(long, value_name = "TIME", requires = "prometheus")]
    end: Option<String>,
    /// Seconds between two rows of a server [default: the config's series.sample_secs]
    #[arg(long, value_name = "SECS", requires = "prometheus", value_parser = clap::value_parser!(u32).range(1..))]
    step: Option<u32>,
    /// The label that names the server of a series
    #[arg(long, value_name = "LABEL", requires = "prometheus")]
    server_label: Option<String>,
    /// Take `host` for the server of `host:9100`
    #[arg(long, requires = "prometheus")]
    strip_port: bool,
    /// The label that names a server's profile
    #[arg(long, value_name = "LABEL", requires = "prometheus")]
    profile_label: Option<String>,
    /// Bearer token: env:NAME, file:PATH or cred:NAME
    #[arg(long, value_name = "REFERENCE", requires = "prometheus")]
    bearer_token: Option<String>,
    /// One more header, such as X-Scope-OrgID=env:TENANT
    #[arg(long = "header", value_name = "NAME=REFERENCE", value_parser = parse_pair, requires = "prometheus")]
    headers: Vec<(String, String)>,
    /// Forget how far an earlier run of this import came
    #[arg(long, requires = "prometheus")]
    restart: bool,
    /// Say what would be asked, and ask nothing
    #[arg(long, requires = "prometheus")]
    dry_run: bool,
}

impl PrometheusArgs {
    /// - Errors: a flag that means something to a server only, beside files.
    fn ensure_unused(&self) -> anyhow::Result<()> {
        let given = [
            ("--query", !self.queries.is_empty()),
            ("--start", self.start.is_some()),
            ("--end", self.end.is_some()),
            ("--step", self.step.is_some()),
            ("--server-label", self.server_label.is_some()),
            ("--strip-port", self.strip_port),
            ("--profile-label", self.profile_label.is_some()),
            ("--bearer-token", self.bearer_token.is_some()),
            ("--header", !self.headers.is_empty()),
            ("--restart", self.restart),
            ("--dry-run", self.dry_run),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(Refusal::usage(format!("{flag} goes with --prometheus, not with files"))),
            None => Ok(()),
        }
    }
}

/// `name=value`; the value may hold more of them.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        // What was typed is not repeated by us: it may hold a secret.
        _ => Err("it is written NAME=VALUE".to_owned()),
    }
}

pub fn run(args: ImportArgs, site: &Site, context: &Context) -> anyhow::Result<Exit> {
    if args.prometheus.prometheus.is_none() {
        args.prometheus.ensure_unused()?;
        let append = AppendArgs::of_import(args.files, args.format, args.plain, args.strict);
        return append::run(&append, site, context);
    }
    let clock = context.clock(site.zone())?;
    let buffer = Buffer::open(site);
    let import = resolve(&args.prometheus, site, context)?;
    if args.prometheus.dry_run {
        let plan = buffer.plan_import(&import, clock.now())?;
        context.output.result(&plan, render_plan)?;
        return Ok(Exit::Done);
    }
    let report = buffer.import_prometheus(&import, &clock, context.progress())?;
    context.output.done(&report, Exit::Done, render)?;
    let (n_bad, n_rows) = (report.rows.n_bad, report.rows.n_rows);
    if n_bad > 0 && (args.strict || n_bad == n_rows) {
        return Err(Refusal::BadRows { n_bad, n_rows })
            .hint(|| format!("{} holds them, with the reason", site.quarantine_dir().display()));
    }
    Ok(Exit::Done)
}

/// The config's `[prometheus]` with the flags laid over it, and its secrets found.
fn resolve(args: &PrometheusArgs, site: &Site, context: &Context) -> anyhow::Result<PrometheusImport> {
    let mut source = site.config.prometheus.clone();
    let overlay = |setting: &mut String, flag: &Option<String>| {
        if let Some(value) = flag.as_ref().filter(|value| !value.is_empty()) {
            setting.clone_from(value);
        }
    };
    overlay(&mut source.url, &args.prometheus);
    overlay(&mut source.server_label, &args.server_label);
    overlay(&mut source.profile_label, &args.profile_label);
    overlay(&mut source.bearer_token, &args.bearer_token);
    source.strip_port |= args.strip_port;
    source.headers.extend(args.headers.iter().cloned());
    if !args.queries.is_empty() {
        source.queries = queries_of(&args.queries)?;
    }
    source.ensure_valid(&site.schema())?;
    if source.url.is_empty() {
        return Err(Refusal::usage("which server? give `--prometheus URL`, or set prometheus.url"));
    }
    if source.queries.is_empty() {
        return Err(Refusal::usage("which queries? give `--query METRIC=PROMQL`, or set prometheus.queries"));
    }
    let time = |text: &String| -> anyhow::Result<DateTime<Utc>> { parse_time(text, site.zone()) };
    let start = args.start.as_ref().ok_or_else(|| Refusal::usage("from when on? give `--start TIME`"))?;
    Ok(PrometheusImport {
        headers: secret_headers(&source, site, context)?,
        start: time(start)?,
        end: args.end.as_ref().map(time).transpose()?,
        step_secs: args.step.unwrap_or(site.config.series.sample_secs),
        restart: args.restart,
        source,
    })
}

fn queries_of(pairs: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut queries = BTreeMap::new();
    for (metric, promql) in pairs {
        if queries.insert(metric.clone(), promql.clone()).is_some() {
            return Err(Refusal::usage(format!("two --query for `{metric}`: one metric has one query")));
        }
    }
    Ok(queries)
}

/// The headers of every request with the values behind their references.
fn secret_headers(
    source: &PrometheusConfig,
    site: &Site,
    context: &Context,
) -> anyhow::Result<Vec<(String, String)>> {
    let secrets = SecretSource { site_root: &site.root, env: &|name| std::env::var(name).ok() };
    let find = |reference: &str| -> anyhow::Result<String> {
        let secret = secrets.resolve(reference).map_err(|error| Refusal::usage(format!("{error:#}")))?;
        if let Some(warning) = secret.warning() {
            context.progress().warn(warning);
        }
        Ok(secret.expose().to_owned())
    };
    let mut headers = Vec::new();
    if !source.bearer_token.is_empty() {
        headers.push(("authorization".to_owned(), format!("Bearer {}", find(&source.bearer_token)?)));
    }
    for (name, reference) in &source.headers {
        headers.push((name.clone(), find(reference)?));
    }
    Ok(headers)
}

fn say(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "-".into(), |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn render_plan(plan: &ImportPlan) -> String {
    if plan.n_points == 0 {
        return format!("{}: nothing is left to ask", plan.source);
    }
    format!(
        "{}: {} queries x {} pages = {} requests (more where an answer is too large)\n  {} time steps, {} to {}{}",
        plan.source,
        plan.n_queries,
        plan.n_pages,
        text::count(plan.n_requests),
        text::count(plan.n_points),
        say(plan.first),
        say(plan.last),
        if plan.is_resumed { "; an earlier run came this far" } else { "" }
    )
}

fn render(report: &ImportReport) -> String {
    if report.n_points == 0 {
        let next = say(report.next);
        return format!(
            "{}: nothing is left to ask, all before {next} is here (`--restart` asks again)",
            report.source
        );
    }
    let mut lines = vec![
        append::render_append(&report.rows),
        format!(
            "  {} samples of {} servers, {} of them NaN or infinite; {} queries x {} pages, {} time steps",
            text::count(report.n_samples),
            report.n_servers,
            text::count(report.n_not_finite),
            report.n_queries,
            report.n_pages,
            text::count(report.n_points)
        ),
    ];
    if let Some(time) = report.resumed_at {
        lines.push(format!("  an earlier run came to {}", say(Some(time))));
    }
    if !report.is_complete {
        lines.push(format!("  the same command goes on at {}", say(report.next)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_hold_equal_signs() {
        let pair = parse_pair("cpu_user_pct=rate(x{mode=\"user\"}[5m])").unwrap();
        assert_eq!(pair, ("cpu_user_pct".to_owned(), "rate(x{mode=\"user\"}[5m])".to_owned()));
        assert!(parse_pair("=x").is_err() && parse_pair("up").is_err());
        assert!(queries_of(&[pair.clone(), pair]).is_err());
    }
}
