//! What is said when a worker starts.

use std::fmt;

use export::BlockProperties;

use super::{Body, DISKS_MAX, Fields, Malformed, VERSION, Wire};

/// How the worker is to run. With it come the sockets of its lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Sockets that come with it.
    pub(crate) lanes: u8,
    /// Memory that it may take.
    pub(crate) memory_bytes: u64,
    /// The disks that it may ask for.
    pub(crate) disks: Vec<BlockProperties>,
}

/// The worker is confined and waits for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) missing: Layers,
}

/// A layer of the worker's confinement that this machine may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Users of its own, none of which is anybody here.
    Users,
    /// A network of its own, without any way out.
    Network,
    /// Processes of its own: it can name no other.
    Processes,
    /// Shared memory and queues of its own.
    Communication,
    /// A name of the machine of its own.
    Name,
    /// Landlock: no file, no port.
    Landlock,
}

/// Some of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layers(u32);

impl Layer {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Users,
        Self::Network,
        Self::Processes,
        Self::Communication,
        Self::Name,
        Self::Landlock,
    ];

    fn bit(self) -> u32 {
        match self {
            Self::Users => 1,
            Self::Network => 2,
            Self::Processes => 8,
            Self::Communication => 16,
            Self::Name => 32,
            Self::Landlock => 64,
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Users => "user namespace",
            Self::Network => "network namespace",
            Self::Processes => "process namespace",
            Self::Communication => "IPC namespace",
            Self::Name => "UTS namespace",
            Self::Landlock => "Landlock",
        })
    }
}

impl Layers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn insert(&mut self, layer: Layer) {
        self.0 |= layer.bit();
    }

    /// Which they are.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        let among = move |layer: &Layer| self.0 & layer.bit() != 0;
        Layer::ALL.into_iter().filter(among)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From a number; what stands for no layer is left out.
    pub fn from_bits(bits: u32) -> Self {
        let all = Layer::ALL.into_iter();
        Self(bits & all.fold(0, |bits, layer| bits | layer.bit()))
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|layer| layer.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

impl Wire for Settings {
    fn encode(self, body: &mut Body) {
        body.u16(VERSION);
        body.u8(self.lanes);
        body.u64(self.memory_bytes);
        body.u32(u32::try_from(self.disks.len()).unwrap_or(u32::MAX));
        for disk in self.disks {
            body.u64(disk.size_bytes);
            body.u32(disk.block_size_bytes);
            body.u32(disk.preferred_size_bytes);
            body.u8(u8::from(disk.read_only));
            body.fields.extend(disk.identity);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        version(fields)?;
        let (lanes, memory_bytes) = (fields.u8()?, fields.u64()?);
        let count = fields.count(DISKS_MAX, 33)?;
        let disk = |_| {
            Ok(BlockProperties {
                size_bytes: fields.u64()?,
                block_size_bytes: unit(fields.u32()?)?,
                preferred_size_bytes: unit(fields.u32()?)?,
                read_only: fields.is()?,
                identity: fields.identity()?,
            })
        };
        Ok(Self {
            lanes,
            memory_bytes,
            disks: (0..count).map(disk).collect::<Result<_, _>>()?,
        })
    }
}

fn unit(bytes: u32) -> Result<u32, Malformed> {
    match bytes.is_power_of_two() {
        true => Ok(bytes),
        false => Err(Malformed("a disk without blocks")),
    }
}

fn version(fields: &mut Fields) -> Result<(), Malformed> {
    match fields.u16()? {
        VERSION => Ok(()),
        _ => Err(Malformed("another version")),
    }
}

impl Wire for Hello {
    fn encode(self, body: &mut Body) {
        body.u16(VERSION);
        body.u32(self.missing.bits());
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        version(fields)?;
        let missing = Layers::from_bits(fields.u32()?);
        Ok(Self { missing })
    }
}
