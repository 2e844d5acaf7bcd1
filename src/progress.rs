//! How work tells what it is doing, without knowing who listens.
//!
//! The rim turns these events into moving bars on a terminal or dated lines under cron; tests listen with
//! [`Silent`]. Library code never prints.

/// A measurable advance of one stage.
#[derive(Clone, Debug)]
pub struct Tick<'a> {
    /// What is advancing, such as `train` or `append`.
    pub stage: &'a str,
    /// Units finished so far.
    pub done: u64,
    /// Units in all; 0 when unknown.
    pub total: u64,
    /// Name of the unit, such as `samples` or `rows`.
    pub unit: &'static str,
    /// What else to show, such as `epoch 31 loss 0.2141`.
    pub detail: String,
}

/// A listener to the progress of some work.
pub trait Progress: Send + Sync {
    /// A named stage begins.
    fn stage(&self, name: &str);
    /// Something worth a line in the log.
    fn note(&self, message: &str);
    /// Something the operator should look at; the work goes on.
    fn warn(&self, message: &str);
    /// Something for whoever wants to know more.
    fn detail(&self, _message: &str) {}
    /// A stage advanced; called often, shown seldom.
    fn tick(&self, tick: &Tick<'_>);
}

/// Listens to nothing.
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str) {}
    fn note(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
    fn tick(&self, _tick: &Tick<'_>) {}
}

/// Passes every event on to two listeners.
pub struct Tee<'a>(pub &'a dyn Progress, pub &'a dyn Progress);

impl Progress for Tee<'_> {
    fn stage(&self, name: &str) {
        self.0.stage(name);
        self.1.stage(name);
    }
    fn note(&self, message: &str) {
        self.0.note(message);
        self.1.note(message);
    }
    fn warn(&self, message: &str) {
        self.0.warn(message);
        self.1.warn(message);
    }
    fn detail(&self, message: &str) {
        self.0.detail(message);
        self.1.detail(message);
    }
    fn tick(&self, tick: &Tick<'_>) {
        self.0.tick(tick);
        self.1.tick(tick);
    }
}
