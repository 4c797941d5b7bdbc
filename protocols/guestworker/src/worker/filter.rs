//! System calls: a list of those that reading takes. Every other ends the process.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::{WorkerError, system};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Limits all threads of this process from now on.
pub(super) fn apply() -> Result<(), WorkerError> {
    let arch = TargetArch::try_from(ARCH)
        .map_err(|error| WorkerError::Filter(seccompiler::Error::Backend(error)))?;
    let compile = |rules, otherwise, then| -> Result<BpfProgram, seccompiler::Error> {
        let filter = SeccompFilter::new(rules, otherwise, then, arch)?;
        Ok(filter.try_into()?)
    };
    let not_permitted = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let refuse = compile(refused(), SeccompAction::Allow, not_permitted);
    let allow = compile(
        allowed().map_err(|error| WorkerError::Filter(error.into()))?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    );
    // The kernel asks both, and the harsher answer counts. After the second nothing can be added.
    for program in [refuse, allow] {
        let program = program.map_err(WorkerError::Filter)?;
        apply_filter_all_threads(&program).map_err(WorkerError::Filter)?;
    }
    match open("/", OFlags::RDONLY, Mode::empty()) {
        Err(Errno::PERM) => Ok(()),
        _ => Err(system(
            "limit system calls",
            io::Error::other("the limit does not hold"),
        )),
    }
}

/// What reading takes, and what is refused without an end.
fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let simple = SIMPLE.iter().chain(REFUSED).copied();
    let mut rules: Rules = simple.map(|call| (call, Vec::new())).collect();
    let no_execution = |argument| {
        let execution = u64::from(libc::PROT_EXEC.unsigned_abs());
        let masked = SeccompCmpOp::MaskedEq(execution);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, 0)
    };
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![no_execution(2)?])?]);
    }
    // A process that gives up sends itself a signal.
    let own = |argument, number| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(number),
        )
    };
    let abort = vec![
        own(0, std::process::id())?,
        own(2, libc::SIGABRT.unsigned_abs())?,
    ];
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(abort)?]);
    Ok(rules)
}

fn refused() -> Rules {
    REFUSED.iter().map(|call| (*call, Vec::new())).collect()
}

/// Memory, threads that wait for one another, time, and bytes through sockets that are open.
const SIMPLE: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// What libraries try and can do without: an allocator asks how much memory it may take, a panic where it happened.
const REFUSED: &[i64] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getcwd,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_prlimit64,
    libc::SYS_readlinkat,
    libc::SYS_sched_getaffinity,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];
