//! Kubernetes: three CronJobs over one volume.
//!
//! A CronJob may start twice or not at all, and `Forbid` knows only its own jobs; the site lock and the logical
//! date make both harmless. The catch-up waits for the lock, so that a long night is not a failed job.

use chrono::{NaiveTime, Timelike};

use super::quote::yaml;
use super::times::limit_minutes;
use super::{RenderedFile, RunTimes, SchedulePlan, Words};

const ROTATE_LIMIT_MINUTES: u32 = 60;

pub(super) fn render(plan: &SchedulePlan, words: &Words) -> Vec<RenderedFile> {
    let times = RunTimes::of(plan);
    let limit = limit_minutes(plan);
    let wait = format!("{limit}m");
    let jobs = [
        CronJob {
            name: "tftctl-rotate",
            time: times.rotate,
            arguments: &["--quiet", "buffer", "rotate"],
            limit_minutes: ROTATE_LIMIT_MINUTES,
        },
        CronJob {
            name: "tftctl-nightly",
            time: times.nightly,
            arguments: &["--quiet", "nightly"],
            limit_minutes: limit,
        },
        CronJob {
            name: "tftctl-catch-up",
            time: times.catch_up,
            arguments: &["--quiet", "nightly", "--wait", &wait],
            limit_minutes: 2 * limit,
        },
    ];
    let documents: Vec<String> = jobs.iter().map(|job| job.render(plan, words)).collect();
    let text = format!("# Rendered by `tftctl schedule show kubernetes`.\n{}", documents.join("---\n"));
    vec![RenderedFile::new("tftctl-cronjobs.yaml", &text, HOW_TO)]
}

const HOW_TO: &str = "Set the image and the name of the volume claim that holds the site, then
kubectl apply -f tftctl-cronjobs.yaml
kubectl get cronjobs
Pause with: kubectl patch cronjob tftctl-nightly -p '{\"spec\":{\"suspend\":true}}'
";

struct CronJob<'a> {
    name: &'static str,
    time: NaiveTime,
    arguments: &'a [&'a str],
    limit_minutes: u32,
}

impl CronJob<'_> {
    fn render(&self, plan: &SchedulePlan, words: &Words) -> String {
        let mut args = vec![yaml("--config"), yaml(&words.config_path)];
        args.extend(self.arguments.iter().map(|argument| yaml(argument)));
        format!(
            r#"apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: "{minute} {hour} * * *"
  timeZone: {zone}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      backoffLimit: 0
      activeDeadlineSeconds: {limit_secs}
      template:
        spec:
          restartPolicy: Never
          # Long enough to write a checkpoint on SIGTERM.
          terminationGracePeriodSeconds: 300
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            fsGroup: 10001
          containers:
            - name: tftctl
              image: tftctl:latest
              command: [{binary}]
              args: [{args}]
              workingDir: {site}
              securityContext:
                allowPrivilegeEscalation: false
              volumeMounts:
                - name: site
                  mountPath: {site}
          volumes:
            - name: site
              persistentVolumeClaim:
                claimName: tftctl-site
"#,
            name = self.name,
            minute = self.time.minute(),
            hour = self.time.hour(),
            zone = yaml(plan.timezone.name()),
            limit_secs = self.limit_minutes * 60,
            binary = yaml(&words.binary),
            args = args.join(", "),
            site = yaml(&words.site_root),
        )
    }
}
