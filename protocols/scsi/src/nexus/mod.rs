//! One initiator port at one target port, and the way of a command from its CDB to its response.

mod state;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use export::Segments;

use crate::block;
use crate::cdb::Cdb;
use crate::copy;
use crate::lun::{Lun, LunMask};
use crate::primary;
use crate::reservations;
use crate::response::{Command, Direction, Ending, Outcome, Plan, Response, Status};
use crate::sense::{Sense, SenseFormat, SenseKey, code};
use crate::table::{Data, Definition, Medium, Operation};
use crate::target::Target;
use crate::unit::{Guard, LogicalUnit, Patience};
use crate::wire;

pub(crate) use state::{ItlNexus, NexusState};
pub use state::{NexusName, TaskSet};

/// An I_T nexus. Dropping it is its loss: what it held without being registered is let go.
#[derive(Debug)]
pub struct Nexus {
    target: Arc<Target>,
    state: Arc<NexusState>,
}

/// One command on its way, with all that it concerns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) target: &'a Target,
    pub(crate) nexus: &'a NexusState,
    pub(crate) itl: &'a ItlNexus,
    pub(crate) unit: &'a LogicalUnit,
    pub(crate) cdb: &'a Cdb,
    pub(crate) command: &'a Command,
    pub(crate) patience: Patience,
    /// Whether the transport has aborted it since it began.
    aborted: &'a AtomicBool,
}

impl Nexus {
    pub(crate) fn new(target: Arc<Target>, state: Arc<NexusState>) -> Self {
        Self { target, state }
    }

    /// Says how the tasks of this nexus are aborted when others ask for it. The last call counts.
    pub fn set_task_set(&self, tasks: Arc<dyn TaskSet>) {
        *self.state.tasks.lock() = Some(tasks);
    }

    /// Whether it is one with `target`, and shows the initiator what `mask` does.
    pub fn is_with(&self, target: &Arc<Target>, mask: &LunMask) -> bool {
        Arc::ptr_eq(&self.target, target) && self.state.mask == *mask
    }

    /// Who is connected to what.
    pub fn name(&self) -> &NexusName {
        &self.state.name
    }

    /// Says which data a command needs before it can be executed, or refuses it. It refuses what is wrong with the
    /// CDB and leaves to execution what depends on the moment, except that data nobody would take is not asked for.
    pub fn plan(&self, lun: [u8; 8], cdb: &Cdb) -> Plan {
        let itl = self.find(lun);
        let planned = recognise(itl.as_deref(), cdb).and_then(|definition| {
            let direction = definition.data.direction();
            if direction != Direction::FromInitiator {
                return Ok((direction, planned_allocation(definition, cdb)));
            }
            let itl = itl
                .as_deref()
                .ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
            self.admit(itl, definition, cdb)?;
            let length_bytes = match definition.data {
                Data::Parameters(field) => match field.value(cdb) {
                    length if length > PARAMETERS_BYTES_MAX => {
                        let code = code::PARAMETER_LIST_LENGTH_ERROR;
                        return Err(Sense::illegal(code).into());
                    }
                    length => length,
                },
                data => block::data_out_bytes(&itl.unit, data, cdb)?,
            };
            Ok((direction, length_bytes))
        });
        match planned {
            Ok((direction, length_bytes)) => Plan::Transfer {
                direction: if length_bytes == 0 {
                    Direction::None
                } else {
                    direction
                },
                length_bytes,
            },
            Err(ending) => {
                Plan::Refuse(self.finish(itl.as_deref(), Err(ending)).unwrap_or_else(|| {
                    // Admission waits for nothing.
                    Response::status(Status::Busy)
                }))
            }
        }
    }

    /// Executes a command if memory alone can; `None` says that nothing was done and that it would have to wait.
    pub fn try_execute(&self, command: &Command) -> Option<Response> {
        self.run(command, Patience::None, &AtomicBool::new(false))
    }

    /// Executes a command; may wait for a disk.
    pub fn execute(&self, command: &Command) -> Response {
        self.execute_unless(command, &AtomicBool::new(false))
    }

    /// Like [`execute`](Self::execute). A command that works piece by piece looks at `aborted` between two of them, and
    /// ends in TASK ABORTED with what was done until then.
    pub fn execute_unless(&self, command: &Command, aborted: &AtomicBool) -> Response {
        self.run(command, Patience::Waits, aborted)
            .expect("a call that may wait ends")
    }

    /// Whether the initiator sees a unit there. For task management functions, which are about units too.
    pub fn has_unit(&self, lun: [u8; 8]) -> bool {
        self.find(lun).is_some() || Lun::decode(lun) == Lun::ReportLuns
    }

    /// Tells the initiator that CLEAR TASK SET of another has aborted commands of its own.
    pub fn commands_cleared(&self, lun: [u8; 8]) {
        if let Some(itl) = self.find(lun) {
            itl.attentions
                .raise(code::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
        }
    }

    /// Drops all attentions that wait, for a transport whose initiators are told by somebody else: behind one nexus there
    /// are many of them then, and only the first to come would learn of anything.
    pub fn forget_attentions(&self) {
        for itl in self.state.units() {
            while itl.attentions.take().is_some() {}
        }
    }

    /// The effects of the task management function LOGICAL UNIT RESET. Says whether there is such a unit.
    pub fn logical_unit_reset(&self, lun: [u8; 8]) -> bool {
        match self.find(lun) {
            Some(itl) => {
                itl.unit.reset(code::BUS_DEVICE_RESET, self.state.id);
                true
            }
            None => Lun::decode(lun) == Lun::ReportLuns,
        }
    }

    /// The effects of a target reset on all units of this target that the initiator may see.
    pub fn target_reset(&self) {
        for itl in self.state.units() {
            itl.unit.reset(code::BUS_DEVICE_RESET, self.state.id);
        }
    }

    fn find(&self, lun: [u8; 8]) -> Option<Arc<ItlNexus>> {
        match Lun::decode(lun) {
            Lun::Unit(number) => self.state.unit(number),
            Lun::ReportLuns | Lun::Unknown => None,
        }
    }

    fn run(&self, command: &Command, patience: Patience, aborted: &AtomicBool) -> Option<Response> {
        let itl = self.find(command.lun);
        let outcome = match &itl {
            Some(itl) => self.run_on(itl, command, patience, aborted),
            None => primary::without_unit(&self.state, command),
        };
        self.finish(itl.as_deref(), outcome)
    }

    fn run_on(
        &self,
        itl: &ItlNexus,
        command: &Command,
        patience: Patience,
        aborted: &AtomicBool,
    ) -> Outcome {
        let cdb = &command.cdb;
        let definition = recognise(Some(itl), cdb)?;
        self.admit(itl, definition, cdb)?;
        let call = Call {
            target: &self.target,
            nexus: &self.state,
            itl,
            unit: &itl.unit,
            cdb,
            command,
            patience,
            aborted,
        };
        call.dispatch(definition)
    }

    /// Everything that can stand between a sound CDB and its execution.
    fn admit(&self, itl: &ItlNexus, definition: &Definition, cdb: &Cdb) -> Result<(), Ending> {
        let tells = !matches!(
            definition.operation,
            Operation::Inquiry | Operation::ReportLuns | Operation::RequestSense
        );
        if tells && !itl.attentions.is_empty() {
            itl.tell_attention()?;
        }
        let barred = itl.barred();
        if barred != 0 && barred & definition.respects(cdb) != 0 {
            return Err(Ending::Status(Status::ReservationConflict));
        }
        let unit = &itl.unit;
        let writes = definition.medium == Medium::Written;
        if writes && unit.geometry.read_only {
            return Err(write_protected());
        }
        if !self.target.offers(unit, definition.operation) {
            return Err(Sense::illegal(code::INVALID_COMMAND_OPERATION_CODE).into());
        }
        if !unit.is_guarded() {
            return Ok(());
        }
        let waits =
            definition.medium != Medium::Untouched || definition.operation == Operation::StartStop;
        if waits && unit.guarded_by(Guard::Sanitizing) {
            return Err(Ending::sanitizing());
        }
        if definition.medium != Medium::Untouched && unit.guarded_by(Guard::MediumAbsent) {
            return Err(Sense::new(SenseKey::NotReady, code::MEDIUM_NOT_PRESENT).into());
        }
        if writes && unit.guarded_by(Guard::WriteProtected) {
            return Err(write_protected());
        }
        Ok(())
    }

    /// Makes the response; `None` for one that has to wait.
    fn finish(&self, itl: Option<&ItlNexus>, outcome: Outcome) -> Option<Response> {
        Some(match outcome {
            Ok(data_in) => Response::good(data_in),
            Err(Ending::WouldWait) => return None,
            Err(Ending::Status(status)) => Response::status(status),
            Err(Ending::Check(mut sense)) => {
                if itl.is_some_and(|itl| itl.unit.modes.descriptor_sense()) {
                    sense.format = SenseFormat::Descriptor;
                }
                Response::check(sense)
            }
        })
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        for itl in self.state.units() {
            itl.unit.lose_nexus(self.state.id);
        }
    }
}

impl Call<'_> {
    fn dispatch(&self, definition: &Definition) -> Outcome {
        match definition.operation {
            Operation::Read => block::read(self),
            Operation::Write => block::write(self),
            Operation::TestUnitReady => Ok(Segments::new()),
            Operation::Inquiry => primary::inquiry(self),
            Operation::ModeSelect => primary::mode_select(self),
            Operation::ModeSense => primary::mode_sense(self),
            Operation::ReadCapacity => block::read_capacity(self),
            Operation::ReadDefectData => Ok(block::read_defect_data(self.cdb)),
            Operation::ReportLuns => primary::report_luns(self.nexus, self.cdb),
            Operation::RequestSense => primary::request_sense(self),
            Operation::SynchronizeCache => block::synchronize_cache(self),
            Operation::CompareAndWrite => block::compare_and_write(self),
            Operation::GetLbaStatus => block::get_lba_status(self),
            Operation::OrWrite => block::or_write(self),
            Operation::Prefetch => block::prefetch(self),
            Operation::SanitizeErase => block::block_erase(self),
            Operation::SanitizeExit => block::exit_failure_mode(),
            Operation::Unmap => block::unmap(self),
            Operation::Verify => block::verify(self),
            Operation::WriteAndVerify => block::write_and_verify(self),
            Operation::WriteAtomic => block::write_atomic(self),
            Operation::WriteSame => block::write_same(self),
            Operation::ExtendedCopy => copy::extended_copy(self),
            Operation::PopulateToken => copy::populate_token(self),
            Operation::ReceiveCopy => copy::receive_copy_results(self),
            Operation::WriteUsingToken => copy::write_using_token(self),
            Operation::ReserveIn => reservations::persistent_reserve_in(self),
            Operation::ReserveOut => reservations::persistent_reserve_out(self),
            Operation::Reserve => reservations::reserve(self),
            Operation::Release => reservations::release(self),
            Operation::PreventAllow => primary::prevent_allow(self),
            Operation::ReceiveDiagnostic => primary::receive_diagnostic(self),
            Operation::ReportOpcodes => primary::report_opcodes(self),
            Operation::ReportPortGroups => primary::report_port_groups(self),
            Operation::ReportTaskManagement => primary::report_task_management(self),
            Operation::SendDiagnostic => primary::send_diagnostic(self),
            Operation::StartStop => primary::start_stop(self),
        }
    }

    /// The parameter list of `list_bytes` that came with the command, in one piece. One that is shorter than the CDB
    /// says is refused.
    pub(crate) fn parameters(&self, list_bytes: u32) -> Result<Cow<'_, [u8]>, Ending> {
        let wanted = wire::to_usize(list_bytes.into());
        let data = &self.command.data_out;
        let list = match data.as_slice() {
            [one] => Cow::Borrowed(&one[..]),
            pieces => Cow::Owned(pieces.concat()),
        };
        match list {
            _ if list.len() < wanted => {
                Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into())
            }
            Cow::Borrowed(list) => Ok(Cow::Borrowed(list.get(..wanted).unwrap_or_default())),
            Cow::Owned(mut list) => {
                list.truncate(wanted);
                Ok(Cow::Owned(list))
            }
        }
    }

    /// Refuses a command whose data is not exactly `wanted_bytes`, or was not meant to be.
    pub(crate) fn expect_exactly(&self, wanted_bytes: u32) -> Result<(), Ending> {
        let there = self.command.data_bytes() == wire::to_usize(wanted_bytes.into());
        let meant = self
            .command
            .expected_bytes
            .is_none_or(|bytes| bytes == wanted_bytes);
        if there && meant {
            return Ok(());
        }
        Err(Sense::illegal(code::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT).into())
    }

    /// Refuses to begin another piece of a command that was aborted.
    pub(crate) fn go_on(&self) -> Result<(), Ending> {
        match self.aborted.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Ending::Status(Status::TaskAborted)),
        }
    }

    /// Whether the call has to be handed on now, because what follows may wait for a disk.
    pub(crate) fn must_not_wait(&self) -> Result<(), Ending> {
        match self.patience {
            Patience::Waits => Ok(()),
            Patience::None => Err(Ending::WouldWait),
        }
    }
}

/// Finds the command. For one that is not known the initiator is told its attentions first all the same: it may ask for
/// what it must not because things have changed.
fn recognise(itl: Option<&ItlNexus>, cdb: &Cdb) -> Result<&'static Definition, Ending> {
    let found = Definition::of(cdb);
    if let (Err(_), Some(itl)) = (&found, itl) {
        itl.tell_attention()?;
    }
    found
}

/// The longest parameter list that any command here has a use for.
const PARAMETERS_BYTES_MAX: u32 = 64 * 1024;

/// Longest answer that an allocation length allows; no answer here is as long as 32 bits can say.
fn planned_allocation(definition: &Definition, cdb: &Cdb) -> u32 {
    match definition.data {
        Data::Allocation(field) => field.value(cdb),
        _ => 0,
    }
}

fn write_protected() -> Ending {
    Sense::new(SenseKey::DataProtect, code::WRITE_PROTECTED).into()
}
