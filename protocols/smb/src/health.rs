//! How the server is.

/// What is known of `smbd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What it does.
    pub phase: Phase,
    /// Its process.
    pub process: Option<u32>,
    /// How often it had to be started again.
    pub restarts: u64,
    /// How it ended last, unless it was told to.
    pub last_end: Option<String>,
    /// Shares.
    pub shares: usize,
}

/// What `smbd` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It was started and does not answer yet.
    Starting,
    /// It answers.
    Running,
    /// It ended by itself and is started again after a while.
    Waiting,
    /// It was told to end.
    Stopped,
}
