//! The line of descent of the champion, as far as the ratchet guard needs it.

use anyhow::Result;

use super::Registry;
use super::audit::Act;
use crate::validate::PromotedLoss;

impl Registry {
    /// The promotions that led to the model in service, oldest first, from the audit log.
    ///
    /// A rollback takes back the promotions after the model it went to; a rollback to a model outside the line
    /// begins a new line. A forced promotion carries no ratio: a person accepted its level as the new base.
    pub fn promoted(&self) -> Result<Vec<PromotedLoss>> {
        let mut line: Vec<PromotedLoss> = Vec::new();
        for entry in self.audit.moves()? {
            let deed = entry.deed;
            if deed.act == Act::Rollback {
                match line.iter().rposition(|one| one.model_id == deed.subject) {
                    Some(at) => line.truncate(at + 1),
                    None => line = vec![PromotedLoss::base(deed.subject, deed.at)],
                }
                continue;
            }
            let exam = deed.exam.as_ref();
            line.push(PromotedLoss {
                loss: exam.and_then(|exam| exam.loss),
                ratio: exam.and_then(|exam| exam.ratio).filter(|_| !deed.forced),
                ..PromotedLoss::base(deed.subject, deed.at)
            });
        }
        Ok(line)
    }
}
