//! What a call of [`super::train`] has to do, decided from the state on disk before anything is touched.

use std::path::PathBuf;

use super::checkpoint::{Ending, State};

/// Where a training begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The lineage in `checkpoints/last`; a new one if there is none.
    #[default]
    Resume,
    /// A new lineage. The state of the old one is kept: see [`super::archive`].
    Fresh,
    /// A model folder (weights and counters; its moments begin at zero) or a checkpoint folder.
    From(PathBuf),
}

/// What is asked of a run.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub epochs: u32,
    pub start: &'a Start,
    pub key: Option<&'a str>,
    pub window_id: &'a str,
    pub config_digest: &'a str,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The run is trained; only its model may be missing.
    Publish,
    /// Go on in the checkpoint's run, until this many of its epochs are done.
    Continue { until: u32 },
    /// A new run of this many epochs from the checkpoint's weights, moments and counters.
    Next { epochs: u32 },
    /// A new run of a new lineage.
    Fresh { epochs: u32 },
    /// A new run from the named folder.
    From { epochs: u32 },
}

/// Decides; `last` is the newest checkpoint, and `is_published` whether its weights became a model.
///
/// A run is known by its key: asked for again, it is finished or found done, whatever `start` says, so that a
/// night that was killed at any moment trains its epochs once. Without a key, a run on this very window with
/// these settings is finished if it is not; anything else is N more epochs.
pub fn plan(last: Option<&State>, is_published: bool, asked: &Asked<'_>) -> Plan {
    let epochs = asked.epochs;
    if let Some(state) = last {
        let is_here =
            state.run.window_id == asked.window_id && state.run.config_digest == asked.config_digest;
        if asked.key.is_some() && state.run.key.as_deref() == asked.key {
            return plan_same_key(state, is_here);
        }
        if *asked.start == Start::Resume {
            return if is_here { plan_here(state, is_published, epochs) } else { Plan::Next { epochs } };
        }
    }
    match asked.start {
        Start::From(_) => Plan::From { epochs },
        Start::Fresh | Start::Resume => Plan::Fresh { epochs },
    }
}

fn plan_same_key(state: &State, is_here: bool) -> Plan {
    let run = &state.run;
    if run.ended.is_some() {
        Plan::Publish
    } else if is_here {
        Plan::Continue { until: run.epochs_planned }
    } else {
        Plan::Next { epochs: (run.epochs_planned - run.epochs_done.min(run.epochs_planned)).max(1) }
    }
}

/// The checkpoint's run had this window and these settings.
fn plan_here(state: &State, is_published: bool, epochs: u32) -> Plan {
    let run = &state.run;
    let is_mid_epoch = run.epoch.batches_done > 0;
    match run.ended {
        Some(Ending::Complete) if !is_published => Plan::Publish,
        Some(Ending::Complete) => Plan::Next { epochs },
        _ if epochs == run.epochs_planned && run.epochs_done < epochs => Plan::Continue { until: epochs },
        _ if is_mid_epoch => Plan::Continue { until: run.epochs_done + 1 },
        _ => Plan::Next { epochs },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::checkpoint::tests::state_of;

    /// A run of `planned` epochs for night `n1` on window `w1`.
    fn state(planned: u32, done: u32, batches_done: u64, ended: Option<Ending>) -> State {
        let mut state = state_of("l");
        state.run.key = Some("n1".into());
        state.run.window_id = "w1".into();
        state.run.config_digest = "c1".into();
        state.run.epochs_planned = planned;
        state.run.epochs_done = done;
        state.run.epoch.batches_done = batches_done;
        state.run.ended = ended;
        state
    }

    fn asked<'a>(start: &'a Start, epochs: u32, key: Option<&'a str>, window_id: &'a str) -> Asked<'a> {
        Asked { epochs, start, key, window_id, config_digest: "c1" }
    }

    #[track_caller]
    fn case(state: &State, is_published: bool, asked: Asked<'_>, expected: Plan) {
        assert_eq!(plan(Some(state), is_published, &asked), expected);
    }

    #[test]
    fn without_a_checkpoint_everything_is_new() {
        assert_eq!(plan(None, false, &asked(&Start::Resume, 2, None, "w1")), Plan::Fresh { epochs: 2 });
        assert_eq!(plan(None, false, &asked(&Start::Fresh, 1, None, "w1")), Plan::Fresh { epochs: 1 });
        let from = Start::From("models/x".into());
        assert_eq!(plan(None, false, &asked(&from, 1, None, "w1")), Plan::From { epochs: 1 });
    }

    #[test]
    fn an_unfinished_epoch_on_this_window_is_finished_and_no_more() {
        let resume = &Start::Resume;
        case(&state(1, 0, 7, None), false, asked(resume, 1, None, "w1"), Plan::Continue { until: 1 });
        case(&state(3, 1, 7, None), false, asked(resume, 3, None, "w1"), Plan::Continue { until: 3 });
        case(&state(3, 1, 7, None), false, asked(resume, 1, None, "w1"), Plan::Continue { until: 2 });
        case(&state(3, 1, 0, None), false, asked(resume, 1, None, "w1"), Plan::Next { epochs: 1 });
        let late = Some(Ending::Deadline);
        case(&state(1, 0, 7, late), true, asked(resume, 1, None, "w1"), Plan::Continue { until: 1 });
    }

    #[test]
    fn a_finished_run_is_followed_by_n_more_epochs_once_its_model_exists() {
        let done = state(1, 1, 0, Some(Ending::Complete));
        case(&done, true, asked(&Start::Resume, 2, None, "w1"), Plan::Next { epochs: 2 });
        case(&done, false, asked(&Start::Resume, 2, None, "w1"), Plan::Publish);
        case(&done, false, asked(&Start::Resume, 1, Some("n2"), "w2"), Plan::Next { epochs: 1 });
    }

    #[test]
    fn another_window_or_config_means_n_more_epochs() {
        case(&state(1, 0, 7, None), false, asked(&Start::Resume, 1, None, "w2"), Plan::Next { epochs: 1 });
        let other = Asked { config_digest: "c2", ..asked(&Start::Resume, 1, None, "w1") };
        case(&state(1, 0, 7, None), false, other, Plan::Next { epochs: 1 });
    }

    #[test]
    fn fresh_means_fresh() {
        case(&state(1, 0, 7, None), false, asked(&Start::Fresh, 1, None, "w1"), Plan::Fresh { epochs: 1 });
    }

    #[test]
    fn the_same_night_trains_its_epochs_once() {
        let from = Start::From("models/champion".into());
        for start in [&Start::Resume, &Start::Fresh, &from] {
            let again = asked(start, 1, Some("n1"), "w1");
            for ending in [Ending::Complete, Ending::Deadline] {
                for is_published in [false, true] {
                    case(&state(1, 1, 0, Some(ending)), is_published, again, Plan::Publish);
                }
            }
            case(&state(1, 0, 7, None), false, again, Plan::Continue { until: 1 });
            let rebuilt = asked(start, 3, Some("n1"), "w9");
            case(&state(3, 2, 7, None), false, rebuilt, Plan::Next { epochs: 1 });
        }
    }
}
