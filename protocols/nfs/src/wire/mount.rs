//! The MOUNT protocol, version 3 (RFC 1813, appendix I) and what is alike in version 1 (RFC 1094, appendix A).

pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;
pub(crate) const VERSION_OLD: u32 = 1;

pub(crate) const PROCEDURE_NULL: u32 = 0;
pub(crate) const PROCEDURE_MNT: u32 = 1;
pub(crate) const PROCEDURE_DUMP: u32 = 2;
pub(crate) const PROCEDURE_UMNT: u32 = 3;
pub(crate) const PROCEDURE_UMNTALL: u32 = 4;
pub(crate) const PROCEDURE_EXPORT: u32 = 5;

/// `MNTPATHLEN` (RFC 1813, 5.1.2).
pub(crate) const PATH_MAX: usize = 1024;

/// `mountstat3` (RFC 1813, 5.1.5).
pub(crate) const OK: u32 = 0;
pub(crate) const NO_ENTRY: u32 = 2;
pub(crate) const IO: u32 = 5;
pub(crate) const ACCESS: u32 = 13;
pub(crate) const NOT_DIRECTORY: u32 = 20;
pub(crate) const INVALID: u32 = 22;
