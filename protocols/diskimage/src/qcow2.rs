//! qcow2, version 2, every cluster allocated.
//!
//! The format is QEMU's (`docs/interop/qcow2.txt` there). Version 2, because in version 3 a writer may mark a cluster as
//! zero in its table instead of writing zeroes; here tables do not change, so zeroes must come as data.

use crate::codec::Block;
use crate::layout::{Content, Layout, Table, Value, Width};

/// Lays out the file of a disk: header, first level, reference counts, second level, data.
pub(crate) fn lay_out(size: u64) -> Layout {
    let shape = Shape::of(size);
    let cluster = shape.cluster;
    let l1_offset = cluster;
    let table_offset = l1_offset + shape.l1_clusters * cluster;
    let blocks_offset = table_offset + shape.table_clusters * cluster;
    let l2_offset = blocks_offset + shape.blocks * cluster;
    let data_offset = l2_offset + shape.l2_tables * cluster;

    let mut header = Block::zeroed(HEADER_BYTES);
    header.put(0, b"QFI\xfb");
    header.put(4, &2_u32.to_be_bytes());
    header.put(20, &cluster.trailing_zeros().to_be_bytes());
    header.put(24, &size.to_be_bytes());
    header.put(36, &narrow(shape.l2_tables).to_be_bytes());
    header.put(40, &l1_offset.to_be_bytes());
    header.put(48, &table_offset.to_be_bytes());
    header.put(56, &narrow(shape.table_clusters).to_be_bytes());

    let steps = |entries, first, step, width| {
        Content::Table(Table {
            entries,
            width,
            value: Value::Steps { first, step },
        })
    };
    let mut layout = Layout::default();
    layout.push(cluster, Content::Fixed(header.into_bytes()));
    layout.push(
        shape.l1_clusters * cluster,
        steps(shape.l2_tables, l2_offset | COPIED, cluster, Width::Big64),
    );
    layout.push(
        shape.table_clusters * cluster,
        steps(shape.blocks, blocks_offset, cluster, Width::Big64),
    );
    layout.push(
        shape.blocks * cluster,
        Content::Table(Table {
            entries: shape.all_clusters,
            width: Width::Big16,
            value: Value::Same(1),
        }),
    );
    layout.push(
        shape.l2_tables * cluster,
        steps(
            shape.data_clusters,
            data_offset | COPIED,
            cluster,
            Width::Big64,
        ),
    );
    layout.push(size, Content::Disk(0));
    layout.align(cluster);
    layout
}

struct Shape {
    cluster: u64,
    data_clusters: u64,
    l2_tables: u64,
    l1_clusters: u64,
    /// Clusters of reference counts, and of the table of these.
    blocks: u64,
    table_clusters: u64,
    all_clusters: u64,
}

impl Shape {
    fn of(size: u64) -> Self {
        // Long disks get long clusters, so that their tables stay short.
        let mut cluster = CLUSTER_BYTES_MIN;
        while size / cluster > CLUSTERS_WANTED && cluster < CLUSTER_BYTES_MAX {
            cluster *= 2;
        }
        let data_clusters = size.div_ceil(cluster);
        let l2_tables = data_clusters.div_ceil(cluster / 8);
        let l1_clusters = (l2_tables * 8).div_ceil(cluster);
        let others = 1 + l1_clusters + l2_tables + data_clusters;
        // Reference counts count their own clusters, too.
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let all_clusters = others + blocks + table_clusters;
            let needed = all_clusters.div_ceil(cluster / 2);
            if needed == blocks {
                return Self {
                    cluster,
                    data_clusters,
                    l2_tables,
                    l1_clusters,
                    blocks,
                    table_clusters,
                    all_clusters,
                };
            }
            blocks = needed;
            table_clusters = (blocks * 8).div_ceil(cluster);
        }
    }
}

/// Lengths of tables of disks within [`LIMIT_BYTES`] fit.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What QEMU opens: its first-level table takes 32 MiB at most. Far above, and a round number.
pub(crate) const LIMIT_BYTES: u64 = 1 << 57;

const CLUSTER_BYTES_MIN: u64 = 64 << 10;
const CLUSTER_BYTES_MAX: u64 = 2 << 20;

/// Clusters above which longer ones are taken.
const CLUSTERS_WANTED: u64 = 1 << 20;

const HEADER_BYTES: usize = 72;

/// The cluster is used once, so a writer need not copy it.
const COPIED: u64 = 1 << 63;
