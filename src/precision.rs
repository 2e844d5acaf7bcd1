//! In what matrix products multiply on a GPU: a word that the configuration says and the kernels know.

use std::fmt;

use serde::{Deserialize, Serialize};

/// To what the operands of a matrix product are rounded before they are multiplied. What is added up, and everything else
/// (weights, moments, norms, softmax, loss), is float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// To nothing.
    #[default]
    Float32,
    /// To 10 bits behind the leading one.
    Tf32,
    /// To 7 bits.
    Bf16,
}

impl Precision {
    /// All of them, in the order of the numbers that the kernels have for them.
    pub const ALL: [Precision; 3] = [Precision::Float32, Precision::Tf32, Precision::Bf16];

    /// What the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
