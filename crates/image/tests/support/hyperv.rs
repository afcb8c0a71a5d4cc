//! What Hyper-V writes and `qemu-img` does not: differencing disks, and a VHDX that was not closed.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;

use super::deltas::{State, layer_byte, state};
use super::support::{MIB, reseal};

/// How a child finds its parent.
pub(crate) struct Parent<'a> {
    /// The parent's id: 16 bytes in a VHD, those of its content's id in a VHDX.
    pub(crate) id: [u8; 16],
    pub(crate) relative: &'a str,
    pub(crate) absolute: &'a str,
}

/// The id that a child of number `layer` has.
pub(crate) fn id(layer: u64) -> [u8; 16] {
    [layer as u8 + 1; 16]
}

pub(crate) fn vhd_id(bytes: &[u8]) -> [u8; 16] {
    let footer = &bytes[bytes.len() - 512..];
    footer[68..84].try_into().unwrap()
}

/// The id of a VHDX's content.
pub(crate) fn vhdx_id(bytes: &[u8]) -> [u8; 16] {
    let number = |at: usize| u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
    let header = if number(64 << 10) > number(128 << 10) { 64 << 10 } else { 128 << 10 };
    bytes[header + 32..header + 48].try_into().unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

const VHD_BLOCK: u64 = 2 * MIB;

/// `footer | header | two names | table | blocks behind their bitmaps | footer`. It has no block of zeros, so those are
/// stored.
pub(crate) fn vhd_child(layer: u64, size: u64, parent: &Parent<'_>) -> Vec<u8> {
    let blocks = size.div_ceil(VHD_BLOCK);
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[60..64].copy_from_slice(&4_u32.to_be_bytes());
    footer[68..84].copy_from_slice(&id(layer));
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&2560_u64.to_be_bytes());
    header[28..32].copy_from_slice(&(blocks as u32).to_be_bytes());
    header[32..36].copy_from_slice(&(VHD_BLOCK as u32).to_be_bytes());
    header[40..56].copy_from_slice(&parent.id);
    let mut names = vec![0; 1024];
    let locators = [(b"W2ku", parent.absolute, 0), (b"W2ru", parent.relative, 512)];
    for (number, (code, name, at)) in locators.into_iter().enumerate() {
        let name = utf16(name);
        names[at..at + name.len()].copy_from_slice(&name);
        let locator = &mut header[576 + number * 24..][..24];
        locator[..4].copy_from_slice(code);
        locator[4..8].copy_from_slice(&512_u32.to_be_bytes());
        locator[8..12].copy_from_slice(&(name.len() as u32).to_be_bytes());
        locator[16..24].copy_from_slice(&(1536 + at as u64).to_be_bytes());
    }
    let mut table = vec![0xff; (blocks as usize * 4).next_multiple_of(512)];
    let mut body = vec![];
    let first = 2560 + table.len();
    for block in 0..blocks {
        let sectors = || (0..VHD_BLOCK / 512).map(|sector| block * VHD_BLOCK + sector * 512);
        if sectors().all(|at| state(layer, at) == State::Absent) {
            continue;
        }
        let entry = ((first + body.len()) / 512) as u32;
        table[block as usize * 4..][..4].copy_from_slice(&entry.to_be_bytes());
        let start = body.len();
        body.resize(start + 512, 0);
        for (number, at) in sectors().enumerate() {
            let state = state(layer, at);
            body[start + number / 8] |= u8::from(state != State::Absent) << (7 - number % 8);
            body.extend(content(state, layer, at));
        }
    }
    let mut bytes = [footer.clone(), header, names, table, body, footer].concat();
    reseal(&mut bytes);
    bytes
}

/// What is stored for a sector; noise where nothing should be read.
fn content(state: State, layer: u64, at: u64) -> Vec<u8> {
    match state {
        State::Absent => vec![0xa5; 512],
        State::Zero => vec![0; 512],
        State::Data => (at..at + 512).map(|at| layer_byte(layer, at)).collect(),
    }
}

/// What a block of a VHDX is.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Absent,
    Zero,
    Whole,
    Parts,
}

fn block(layer: u64, number: u64) -> Block {
    match (number + layer) % 5 {
        0 => Block::Absent,
        1 => Block::Zero,
        2 => Block::Whole,
        _ => Block::Parts,
    }
}

/// What the child number `layer`, with blocks of 1 MiB, has at `at`.
pub(crate) fn vhdx_state(layer: u64, at: u64) -> State {
    match block(layer, at / MIB) {
        Block::Absent => State::Absent,
        Block::Zero => State::Zero,
        Block::Whole => State::Data,
        Block::Parts => state(layer, at),
    }
}

/// What [`vhdx_child`] makes.
pub(crate) struct VhdxChild<'a> {
    pub(crate) layer: u64,
    pub(crate) size: u64,
    pub(crate) sector: u64,
    /// The only blocks that are not in the parent.
    pub(crate) blocks: std::ops::Range<u64>,
    pub(crate) parent: Parent<'a>,
}

/// `0 identifier, headers, regions | 1M log | 2M table | 3M metadata | 4M bitmaps, blocks`, the headers' second copies left
/// out.
pub(crate) fn vhdx_child(child: &VhdxChild<'_>) -> Vec<u8> {
    let (chunk_ratio, mib) = (8 * child.sector, MIB as usize);
    let chunks = child.size.div_ceil(MIB).div_ceil(chunk_ratio);
    let mut bytes = vec![0; (4 + chunks as usize) * mib];
    bytes[..8].copy_from_slice(b"vhdxfile");
    let mut header = vec![0; 4096];
    header[..4].copy_from_slice(b"head");
    header[8] = 1;
    header[32..48].copy_from_slice(&id(child.layer));
    header[66] = 1;
    header[68..72].copy_from_slice(&(MIB as u32).to_le_bytes());
    header[72..80].copy_from_slice(&MIB.to_le_bytes());
    bytes[64 << 10..][..4096].copy_from_slice(&header);
    let regions = [
        ("6677c22d23f600429d64115e9bfd4a08", 2 * MIB, 1),
        ("06a27c8b90479a4bb8fe575f050f886e", 3 * MIB, 1),
    ];
    let table = &mut bytes[192 << 10..][..65_536];
    table[..4].copy_from_slice(b"regi");
    table[8] = regions.len() as u8;
    for (number, (guid, at, required)) in regions.into_iter().enumerate() {
        let entry = &mut table[16 + number * 32..][..32];
        entry[..16].copy_from_slice(&hex(guid));
        entry[16..24].copy_from_slice(&at.to_le_bytes());
        entry[24..28].copy_from_slice(&(MIB as u32).to_le_bytes());
        entry[28] = required;
    }
    bytes[3 * mib..][..metadata(child).len()].copy_from_slice(&metadata(child));
    for chunk in 0..chunks {
        set_entry(&mut bytes, chunk * (chunk_ratio + 1) + chunk_ratio, (4 + chunk) << 20 | 6);
    }
    for number in child.blocks.clone() {
        let kind = block(child.layer, number);
        let entry = number + number / chunk_ratio;
        let state = match kind {
            Block::Absent => continue,
            Block::Zero => 2,
            Block::Whole => 6,
            Block::Parts => 7,
        };
        let at = bytes.len();
        set_entry(&mut bytes, entry, if state == 2 { 2 } else { at as u64 | state });
        if kind == Block::Zero {
            continue;
        }
        bytes.resize(at + mib, 0);
        for part in (0..MIB).step_by(child.sector as usize) {
            let from = number * MIB + part;
            let state = vhdx_state(child.layer, from);
            let sector = (from / child.sector) as usize;
            let bitmap = (4 + sector / (1 << 23)) * mib;
            // The bits of a block that is whole say nothing.
            let set = kind == Block::Parts && state != State::Absent;
            bytes[bitmap + sector % (1 << 23) / 8] |= u8::from(set) << (sector % 8);
            for inner in (0..child.sector).step_by(512) {
                let to = at + (part + inner) as usize;
                bytes[to..to + 512].copy_from_slice(&content(state, child.layer, from + inner));
            }
        }
    }
    reseal(&mut bytes);
    bytes
}

fn set_entry(bytes: &mut [u8], entry: u64, value: u64) {
    bytes[2 * MIB as usize + entry as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// As a GUID is written: its first three groups are little-endian.
fn guid(id: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let text: String = order.iter().map(|at| format!("{:02X}", id[*at])).collect();
    let at = |from: usize, to: usize| text[from..to].to_owned();
    format!("{{{}-{}-{}-{}-{}}}", at(0, 8), at(8, 12), at(12, 16), at(16, 20), at(20, 32))
}

/// The table of items and the items behind it.
fn metadata(child: &VhdxChild<'_>) -> Vec<u8> {
    let parameters = [(MIB as u32).to_le_bytes(), 2_u32.to_le_bytes()].concat();
    let items = [
        ("3767a1ca36fa434db3b633f0aa44e76b", parameters),
        ("2442a52f1bcd7648b2115dbed83bf4b8", child.size.to_le_bytes().to_vec()),
        ("1dbf41816fa90947ba47f233a8faab5f", (child.sector as u32).to_le_bytes().to_vec()),
        ("2d5fd3a80bb34d45abf7d3d84834ab0c", locator(&child.parent)),
    ];
    let mut table = vec![0; 65_536];
    table[..8].copy_from_slice(b"metadata");
    table[10] = items.len() as u8;
    for (number, (guid, item)) in items.iter().enumerate() {
        let at = table.len() as u32;
        let entry = &mut table[32 + number * 32..][..32];
        entry[..16].copy_from_slice(&hex(guid));
        entry[16..20].copy_from_slice(&at.to_le_bytes());
        entry[20..24].copy_from_slice(&(item.len() as u32).to_le_bytes());
        entry[24] = 4;
        table.extend(item);
    }
    table
}

fn locator(parent: &Parent<'_>) -> Vec<u8> {
    let linkage = guid(&parent.id);
    let pairs = [
        ("absolute_win32_path", parent.absolute),
        ("parent_linkage", &linkage),
        ("relative_path", parent.relative),
    ];
    let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let mut out = hex("b7ef4ab09ed1814ab78925b8e9445913");
    out.extend([0, 0, pairs.len() as u8, 0]);
    let mut at = out.len() + 12 * pairs.len();
    let mut strings = vec![];
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        out.extend((at as u32).to_le_bytes());
        out.extend((at as u32 + key.len() as u32).to_le_bytes());
        out.extend((key.len() as u16).to_le_bytes());
        out.extend((value.len() as u16).to_le_bytes());
        at += key.len() + value.len();
        strings.extend([key, value].concat());
    }
    out.extend(strings);
    out
}

/// A change that a log makes to a sector of 4 KiB, or zeros that it puts.
pub(crate) enum Change {
    Sector { at: u64, bytes: Vec<u8> },
    Zeros { at: u64, len: u64 },
}

/// An entry of a log.
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) tail: u32,
    pub(crate) id: [u8; 16],
    pub(crate) flushed: u64,
    pub(crate) last: u64,
    pub(crate) changes: Vec<Change>,
}

impl Entry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; (64 + self.changes.len() * 32_usize).next_multiple_of(4096)];
        out[..4].copy_from_slice(b"loge");
        out[12..16].copy_from_slice(&self.tail.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..28].copy_from_slice(&(self.changes.len() as u32).to_le_bytes());
        out[32..48].copy_from_slice(&self.id);
        out[48..56].copy_from_slice(&self.flushed.to_le_bytes());
        out[56..64].copy_from_slice(&self.last.to_le_bytes());
        for (number, change) in self.changes.iter().enumerate() {
            let descriptor = 64 + number * 32;
            let (kind, first, second, place) = match change {
                Change::Zeros { at, len } => (b"zero", [0; 4], len.to_le_bytes(), at),
                Change::Sector { at, bytes } => {
                    let mut sector = bytes.clone();
                    let (first, last) = (sector[..8].try_into().unwrap(), &bytes[4092..]);
                    sector[..4].copy_from_slice(b"data");
                    sector[4..8].copy_from_slice(&((self.sequence >> 32) as u32).to_le_bytes());
                    sector[4092..].copy_from_slice(&(self.sequence as u32).to_le_bytes());
                    out.extend(sector);
                    (b"desc", last.try_into().unwrap(), first, at)
                }
            };
            let descriptor = &mut out[descriptor..][..32];
            descriptor[..4].copy_from_slice(kind);
            descriptor[4..8].copy_from_slice(&first);
            descriptor[8..16].copy_from_slice(&second);
            descriptor[16..24].copy_from_slice(&place.to_le_bytes());
            descriptor[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        }
        let len = out.len() as u32;
        out[8..12].copy_from_slice(&len.to_le_bytes());
        let sum = crc32c::crc32c(&out);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// Where a VHDX's log and its block table are.
pub(crate) fn log_and_table(bytes: &[u8]) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let len = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let log = number((64 << 10) + 72);
    let log = log..log + len((64 << 10) + 68);
    let entries = (0..2).map(|entry| (192 << 10) + 16 + entry * 32);
    let table = entries.clone().find(|at| bytes[*at] == 0x66).unwrap();
    (log, number(table + 16)..number(table + 16) + len(table + 24))
}

/// Marks the log of a VHDX as one to replay and puts `entries` into it, each at its place.
pub(crate) fn set_log(bytes: &mut [u8], id: [u8; 16], entries: &[(usize, Vec<u8>)]) {
    let (log, _) = log_and_table(bytes);
    let len = log.len();
    for (at, entry) in entries {
        for (number, byte) in entry.iter().enumerate() {
            bytes[log.start + (at + number) % len] = *byte;
        }
    }
    for header in [64 << 10, 128 << 10] {
        bytes[header + 48..header + 64].copy_from_slice(&id);
    }
    reseal(bytes);
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
