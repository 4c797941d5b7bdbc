//! The command line: one file for each noun. It speaks HTTP with the daemon and knows nothing of the repository,
//! except that `init` makes one, `serve` runs the daemon, `--offline` works on a repository without one, and `rescue` and
//! `adopt` work where none runs.
//!
//! Results go to stdout, progress and logs to stderr. Exit 0 done, 1 failed, 2 misused, 141 nobody reads the results.

mod adopt;
mod alert;
mod backup;
mod client;
mod collect;
mod completion;
mod config;
mod demo;
mod doctor;
mod files;
mod guest_worker;
mod init;
mod key;
mod keyless;
mod lock_authority;
mod mount;
mod output;
mod point;
mod progress;
mod recover;
mod rescue;
mod restore;
mod retention;
mod secret;
mod serve;
mod share;
mod smb;
mod stats;
mod stream;
mod token;
mod verify;
mod viewing;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use client::{Client, ClientArgs, Place};
use output::Output;

/// Backup repository that you can boot from
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Verb,
    #[command(flatten)]
    daemon: ClientArgs,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an empty repository
    Init(init::InitArgs),
    /// Run the daemon
    Serve(serve::ServeArgs),
    /// Show the main job on an empty machine
    Demo(demo::DemoArgs),
    /// Back something up
    #[command(subcommand)]
    Backup(backup::BackupVerb),
    /// Look at workloads
    #[command(subcommand)]
    Workload(workload::WorkloadVerb),
    /// Look at restore points
    #[command(subcommand)]
    Point(point::PointVerb),
    /// Serve disks of a restore point at once
    #[command(subcommand)]
    Recover(recover::RecoverVerb),
    /// Copy disks out of a restore point
    #[command(subcommand)]
    Restore(restore::RestoreVerb),
    /// Get single files out of a restore point
    #[command(subcommand)]
    Files(files::FilesVerb),
    /// Show the disks of a restore point, and the files on them, as a folder of this machine
    Mount(mount::MountArgs),
    /// Show the disks of a restore point, and the files on them, as a share for Windows
    Share(share::ShareArgs),
    /// Look at the server of shares
    #[command(subcommand)]
    Smb(smb::SmbVerb),
    /// Bring and get streams of databases
    #[command(subcommand)]
    Stream(stream::StreamVerb),
    /// Say how long restore points are kept
    #[command(subcommand)]
    Retention(retention::RetentionVerb),
    /// Give back the space of expired restore points
    Collect(collect::CollectArgs),
    /// Get data out of a repository without a daemon, whatever is hurt
    Rescue(rescue::RescueArgs),
    /// Take over a repository's folder from another machine
    Adopt(adopt::AdoptArgs),
    /// Keep the second factor that lifts locks
    #[command(subcommand)]
    LockAuthority(lock_authority::LockAuthorityVerb),
    /// Re-read what is stored and compare
    Verify(verify::VerifyArgs),
    /// Manage what opens an encrypted repository
    Key(key::KeyArgs),
    /// Show space and savings
    Stats,
    /// See what needs a person's attention
    #[command(subcommand)]
    Alert(alert::AlertVerb),
    /// Take the daemon's configuration from one machine to another
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Say who may use the daemon over the network
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Check this machine and the configuration
    Doctor(doctor::DoctorArgs),
    /// Print a completion script
    Completion(completion::CompletionArgs),
    /// Read the disks of a guest for another process of this program
    #[command(hide = true)]
    GuestWorker(guest_worker::GuestWorkerArgs),
    /// Start a machine that reads the disks of a guest for another process of this program
    #[command(hide = true)]
    GuestMachine(guest_worker::GuestMachineArgs),
    /// Answer as the first process of such a machine
    #[command(hide = true)]
    GuestAgent,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // A misuse ends in clap with code 2.
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => output::complain(&error),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments {
        command,
        daemon,
        json,
    } = arguments;
    let output = Output::new(json);
    let connect = || Place::find(&daemon).map(Client::new);
    match command {
        Verb::Init(arguments) => init::run(&arguments, &output)?,
        Verb::Serve(arguments) => serve::run(&arguments, &daemon)?,
        Verb::Demo(arguments) => demo::run(&arguments, &output)?,
        Verb::Backup(verb) => backup::run(&verb, &connect()?, &output)?,
        Verb::Workload(verb) => workload::run(&verb, &connect()?, &output)?,
        Verb::Point(verb) => point::run(&verb, &connect()?, &output)?,
        Verb::Recover(verb) => recover::run(&verb, &connect()?, &output)?,
        Verb::Restore(verb) => restore::run(&verb, &connect()?, &output)?,
        Verb::Files(verb) => return files::run(&verb, &connect()?, &output),
        Verb::Mount(arguments) => mount::run(&arguments, &connect()?, &output)?,
        Verb::Share(arguments) => share::run(&arguments, &connect()?, &output)?,
        Verb::Smb(verb) => smb::run(&verb, &connect()?, &output)?,
        Verb::Stream(verb) => stream::run(&verb, &daemon, &output)?,
        Verb::Retention(verb) => retention::run(&verb, &connect()?, &output)?,
        Verb::Collect(arguments) => return collect::run(&arguments, &connect()?, &output),
        Verb::Rescue(arguments) => return rescue::run(&arguments, &output),
        Verb::Adopt(arguments) => return adopt::run(&arguments, &output),
        Verb::LockAuthority(verb) => lock_authority::run(&verb, &connect()?, &output)?,
        Verb::Verify(arguments) => return verify::run(&arguments, &connect()?, &output),
        Verb::Key(arguments) => key::run(&arguments, connect, &output)?,
        Verb::Stats => stats::run(&connect()?, &output)?,
        Verb::Alert(verb) => alert::run(&verb, &connect()?, &output)?,
        Verb::Config(verb) => config::run(&verb, connect, &output)?,
        Verb::Token(verb) => token::run(&verb, &connect()?, &output)?,
        Verb::Doctor(arguments) => return doctor::run(&arguments, &daemon, &output),
        Verb::Completion(arguments) => completion::run(&arguments)?,
        Verb::GuestWorker(arguments) => return guest_worker::run(&arguments),
        Verb::GuestMachine(arguments) => return guest_worker::run_machine(&arguments),
        Verb::GuestAgent => return guest_worker::run_agent(),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses early what is plainly no restore point, so that the sentence comes before any connection.
fn point_name(text: &str) -> Result<String, String> {
    let good = text.rsplit_once('@').is_some_and(|(workload, sequence)| {
        !workload.is_empty() && (sequence == "latest" || sequence.parse::<u64>().is_ok())
    });
    if good {
        Ok(text.to_owned())
    } else {
        Err("write WORKLOAD@SEQUENCE or WORKLOAD@latest".to_owned())
    }
}
