//! The `holdfast` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    abort_on_panic();
    holdfast::cli::main()
}

/// A panic anywhere is a fault in this program: it is logged, and the process ends at once, because going on with
/// half of its threads could damage what is stored. Everything that was answered is safe.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        tracing::error!(%panic, "holdfast has a fault and stops");
        std::process::abort();
    }));
}
