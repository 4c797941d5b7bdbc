//! What holds for the process as a whole: its rights, its memory, its end.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus,
    Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use super::{WorkerError, system};
use crate::wire::{Layer, Layers};

/// Has the kernel end this process when its parent ends, however that may be.
pub(crate) fn die_with_parent() -> Result<(), WorkerError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| system("ask for the end of the parent", error))
}

/// No program that this process might start gives it rights.
pub(crate) fn no_new_privileges() -> Result<(), WorkerError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| system("give up new rights", error))
}

/// No path, no port, no signal to others: as much of it as this kernel knows.
pub(super) fn landlock(missing: &mut Layers) {
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .restrict_self()?;
        Ok(restricted.ruleset)
    };
    if !matches!(
        restrict(),
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced)
    ) {
        missing.insert(Layer::Landlock);
    }
}

/// Memory, files, dumps. `sockets` are open, and nothing else will be.
pub(super) fn limit(memory_bytes: u64, sockets: usize) -> Result<(), WorkerError> {
    let set = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).map_err(|error| system("limit what this process takes", error))
    };
    set(Resource::Core, 0)?;
    set(Resource::Fsize, 0)?;
    // The three that every process has, and the next number for each new one.
    set(Resource::Nofile, sockets as u64 + 4)?;
    set(Resource::Data, memory_bytes)?;
    set(Resource::As, memory_bytes.saturating_add(ADDRESSES_BYTES))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| system("keep others from looking into this process", error))
}

/// Of addresses more than of memory: for the program itself, and for what allocators reserve and do not use.
const ADDRESSES_BYTES: u64 = 1 << 30;

const LANDLOCK: ABI = ABI::V7;
