//! ESXi's snapshot deltas, which `qemu-img` reads and does not write.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;

use super::support::{MIB, expected_byte};

const SECTOR: u64 = 512;
/// What a delta changes is told by this many bytes.
pub(crate) const PART: u64 = 4096;

/// What a part of a delta is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum State {
    Absent,
    Zero,
    Data,
}

/// What the delta number `layer` has of the part at `offset`: nothing at all in its second MiB of 16.
pub(crate) fn state(layer: u64, offset: u64) -> State {
    let part = offset / PART;
    match (part * 5 + part / 64 + layer) % 11 {
        _ if (offset / (16 * MIB)) % 3 == 1 => State::Absent,
        0..=2 => State::Data,
        3 => State::Zero,
        _ => State::Absent,
    }
}

/// The byte that the delta number `layer` has at `offset`, where it has one: noise everywhere.
pub(crate) fn layer_byte(layer: u64, offset: u64) -> u8 {
    expected_byte(offset % MIB + 3 * MIB * (offset / MIB + 1000 * layer))
}

fn layer_part(layer: u64, offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(|at| layer_byte(layer, at)).collect()
}

/// Writes `name` and its delta file; `kind` is `VMFSSPARSE` or `SESPARSE`.
pub(crate) fn write_delta(
    dir: &Path,
    name: &str,
    kind: &str,
    layer: u64,
    size: u64,
    parent: (&str, &str),
) {
    let create = if kind == "SESPARSE" { "seSparse" } else { "vmfsSparse" };
    let (hint, cid) = parent;
    let data = name.replace(".vmdk", "-delta.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={layer:08x}\nparentCID={cid}\ncreateType=\"{create}\"\n\
         parentFileNameHint=\"{hint}\"\nRW {} {kind} \"{data}\"\n\nddb.adapterType = \"lsilogic\"\n",
        size / SECTOR
    );
    std::fs::write(dir.join(name), text).unwrap();
    let bytes = if kind == "SESPARSE" { se_sparse(layer, size) } else { cowd(layer, size) };
    std::fs::write(dir.join(data), bytes).unwrap();
}

/// `header 4 | directory | tables and grains`, grains of one sector, 4096 a table. It has no grain of zeros, so
/// those are stored.
pub(crate) fn cowd(layer: u64, size: u64) -> Vec<u8> {
    let sectors = size / SECTOR;
    let tables = sectors.div_ceil(4096);
    let mut head = vec![0; 2048];
    head[..4].copy_from_slice(b"COWD");
    for (at, value) in [(4, 1), (8, 3), (12, sectors), (16, 1), (20, 4), (24, tables)] {
        head[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    let mut directory = vec![0; (tables as usize * 4).next_multiple_of(512)];
    let mut body = vec![];
    let first = (head.len() + directory.len()) as u64 / SECTOR;
    for table in 0..tables {
        let own = table * 4096..((table + 1) * 4096).min(sectors);
        if own.clone().all(|sector| state(layer, sector * SECTOR) == State::Absent) {
            continue;
        }
        let at = body.len();
        directory[table as usize * 4..][..4]
            .copy_from_slice(&((first + at as u64 / SECTOR) as u32).to_le_bytes());
        body.resize(at + 4096 * 4, 0);
        for sector in own {
            let bytes = match state(layer, sector * SECTOR) {
                State::Absent => continue,
                State::Zero => vec![0; 512],
                State::Data => layer_part(layer, sector * SECTOR, SECTOR),
            };
            let entry = (first + body.len() as u64 / SECTOR) as u32;
            body[at + (sector % 4096) as usize * 4..][..4].copy_from_slice(&entry.to_le_bytes());
            body.extend(bytes);
        }
    }
    [head, directory, body].concat()
}

/// `header | volatile header | directory 8 | tables 64 each | grains 8 each`, 4096 grains a table.
pub(crate) fn se_sparse(layer: u64, size: u64) -> Vec<u8> {
    let reach = 4096 * PART;
    let tables = size.div_ceil(reach);
    let used: Vec<_> = (0..tables).filter(|table| (table % 3) != 1).collect();
    let (directory_at, tables_at) = (2, 10);
    let grains_at = tables_at + used.len() as u64 * 64;
    let mut head = vec![0; 1024];
    let fields = [0xcafe_babe, 0x2_0000_0001, size / SECTOR, 8, 64, 0, 0, 0, 0, 0, 1, 1];
    for (number, value) in fields.iter().enumerate() {
        head[number * 8..][..8].copy_from_slice(&u64::to_le_bytes(*value));
    }
    let (mut directory, mut table_bytes, mut grains) = (vec![0; 4096], vec![], vec![]);
    for (number, table) in used.iter().enumerate() {
        let entry = 1_u64 << 60 | number as u64;
        directory[*table as usize * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        for grain in 0..4096 {
            let at = table * reach + grain * PART;
            let number = (grains.len() as u64) / PART;
            let entry = match state(layer, at) {
                _ if at >= size => 0,
                State::Absent => 0,
                State::Zero => (1 + grain % 2) << 60,
                State::Data => {
                    grains.extend(layer_part(layer, at, PART));
                    3 << 60 | (number & 0xfff) << 48 | number >> 12
                }
            };
            table_bytes.extend(entry.to_le_bytes());
        }
    }
    let places = [
        (128, directory_at),
        (136, 8),
        (144, tables_at),
        (152, used.len() as u64 * 64),
        (192, grains_at),
        (200, grains.len() as u64 / SECTOR),
    ];
    for (at, value) in places {
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    head[512..520].copy_from_slice(&0xcafe_cafe_u64.to_le_bytes());
    [head, directory, table_bytes, grains].concat()
}
