//! `/etc/cron.d/tftctl`: one file with a user field and a name without dots.

use chrono::{NaiveTime, Timelike};

use super::quote::{cron_command, shell};
use super::{RenderedFile, RunTimes, SchedulePlan, Words};

const FILE_NAME: &str = "tftctl";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn render(plan: &SchedulePlan, words: &Words) -> Vec<RenderedFile> {
    let times = RunTimes::of(plan);
    let program = format!("{} --config {}", shell(&words.binary), shell(&words.config_path));
    let rotate = format!("{program} --quiet buffer rotate");
    let nightly = format!("nice -n 10 {program} --quiet nightly");
    // Exit code 5: the first run is still at work. That is no news, and must not become a mail every night.
    let catch_up = format!("out=$({nightly} 2>&1) || [ $? -eq 5 ] || echo \"$out\"");
    let text = format!(
        "{comment}\n{variables}\n# minute hour day month weekday user command\n{rotate}{nightly}{catch_up}",
        comment = comment(plan, words),
        variables = variables(plan),
        rotate = entry(times.rotate, &words.user, &rotate),
        nightly = entry(times.nightly, &words.user, &nightly),
        catch_up = entry(times.catch_up, &words.user, &catch_up),
    );
    vec![RenderedFile::new(FILE_NAME, &text, HOW_TO)]
}

const HOW_TO: &str = "sudo install -o root -g root -m 0644 tftctl /etc/cron.d/tftctl
Keep the name: a file with a dot in its name is ignored.
On Debian and Ubuntu, compare `timedatectl` with the zone in the file: their cron reads every table in the
machine's zone.
";

fn entry(time: NaiveTime, user: &str, command: &str) -> String {
    format!("{} {} * * * {user} {}\n", time.minute(), time.hour(), cron_command(command))
}

fn variables(plan: &SchedulePlan) -> String {
    format!("SHELL=/bin/sh\nPATH={PATH}\nMAILTO=root\nCRON_TZ={}\n", plan.timezone)
}

fn comment(plan: &SchedulePlan, words: &Words) -> String {
    let lines = [
        format!("tftctl for the site {}: goes to /etc/cron.d/tftctl.", words.site_root),
        "Rendered by `tftctl schedule show cron`; render it again rather than editing it.".to_owned(),
        String::new(),
        "Silence is success: cron mails what is printed to MAILTO.".to_owned(),
        String::new(),
        format!("Zone: the times are meant in {}, the zone of the site.", plan.timezone),
        "- cronie (RHEL, Fedora, SUSE, Arch) reads them in CRON_TZ.".to_owned(),
        "- Debian's cron ignores CRON_TZ and reads them in the machine's zone (and TZ= would change the"
            .to_owned(),
        "  command's environment only). Run such a machine in the zone of the site, or shift the hours."
            .to_owned(),
        "A night belongs to its date in the site's zone, whatever started it: a time that daylight saving"
            .to_owned(),
        "skips is caught up by the last line, one that comes twice finds the night done.".to_owned(),
    ];
    lines.iter().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}
