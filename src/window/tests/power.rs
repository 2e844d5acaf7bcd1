//! Windows on a disk whose power goes, and which fails, at any change: a window is there whole or not at all.

use std::path::Path;

use anyhow::{Result, ensure};

use super::*;
use crate::fsx::simulated::{Trial, nothing};

#[test]
fn a_build_and_a_pruning_leave_whole_windows() {
    let days = days_of(&config(), "2024-01-01", 31, &["a"], |_, _| true);
    let build = |root: &Path, end: &str| {
        let request = WindowRequest { end: Some(date(end)), days: Some(8), ..WindowRequest::default() };
        build_from(&days, &Site::of(root, config()), &request, DateTime::<Utc>::UNIX_EPOCH, &Silent)
    };
    let prepare = |root: &Path| {
        for end in ["2024-01-15", "2024-01-31"] {
            build(root, end).unwrap();
        }
    };
    let run = |root: &Path, promise: &dyn Fn()| {
        build(root, "2024-02-01")?;
        promise();
        prune(&Site::of(root, config()), date("2024-02-01"), 7, &[])?;
        promise();
        Ok(())
    };
    let check = |root: &Path, n_promised: usize| -> Result<()> {
        let site = Site::of(root, config());
        let damaged = list_damaged(&site)?;
        ensure!(damaged.is_empty(), "{damaged:?}");
        let windows = list(&site)?;
        windows.iter().try_for_each(Window::verify)?;
        let ends: Vec<String> = windows.iter().map(|window| window.manifest.end_day.to_string()).collect();
        let has = |end: &str| ends.iter().any(|found| found == end);
        ensure!(has("2024-01-31") && (n_promised < 1 || has("2024-02-01")), "only {ends:?} are there");
        ensure!(n_promised < 2 || !has("2024-01-15"), "an old one is left: {ends:?}");
        let latest = latest(&site)?.map(|window| window.manifest.end_day.to_string());
        let expected = if n_promised < 1 { ["2024-01-31", "2024-02-01"] } else { ["2024-02-01"; 2] };
        ensure!(
            latest.as_deref().is_some_and(|latest| expected.contains(&latest)),
            "{latest:?} is the latest"
        );
        Ok(())
    };
    Trial { prepare: &prepare, run: &run, check: &check, recover: &nothing }.pass();
}
