use std::sync::LazyLock;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smallest and largest buffer kept: 4 KiB to 4 MiB, in powers of two.
const MIN_SHIFT: u32 = 12;
const CLASSES: usize = 11;
/// Bytes at rest per class; times 11 classes at most 44 MiB, and only after that much was in use at
/// once.
const CLASS_BYTES: usize = 4 << 20;

/// Buffers of one size that nobody uses.
type Class = Mutex<Vec<Box<[u8]>>>;

static POOL: LazyLock<[Class; CLASSES]> =
    LazyLock::new(|| std::array::from_fn(|_| Mutex::new(Vec::new())));

/// A buffer of at least the bytes asked for, with old bytes in it.
///
/// Reused because a fresh large allocation costs more than the read into it: the kernel zeroes and
/// maps 64 pages for a 256 KiB one. It goes back to the pool when the last [`Bytes`] of it drops.
pub(crate) struct Buffer {
    /// Empty only between `drop`'s two steps.
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, at most 4 MiB rounded up to a power of two; larger ones are not
    /// kept.
    pub(crate) fn take(len: usize) -> Self {
        let kept = class_of(len).and_then(|class| POOL[class].lock().pop());
        let bytes = kept.unwrap_or_else(|| vec![0; size_for(len)].into_boxed_slice());
        Self { bytes, len }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let Some(class) = class_of(bytes.len()) else { return };
        let mut kept = POOL[class].lock();
        if kept.len() * bytes.len() < CLASS_BYTES {
            kept.push(bytes);
        }
    }
}

fn size_for(len: usize) -> usize {
    len.max(1 << MIN_SHIFT).next_power_of_two()
}

fn class_of(len: usize) -> Option<usize> {
    let class = (size_for(len).trailing_zeros() - MIN_SHIFT) as usize;
    (len > 0 && class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_asked_and_comes_back() {
        for len in [1, 4095, 4096, 4097, 100_000, 4 << 20] {
            let mut buffer = Buffer::take(len);
            buffer.as_mut().fill(7);
            let bytes = buffer.freeze();
            assert_eq!(bytes.len(), len);
            assert!(bytes.slice(len / 2..).iter().all(|byte| *byte == 7));
        }
        assert_eq!(Buffer::take((4 << 20) + 1).as_ref().len(), (4 << 20) + 1);
    }

    #[test]
    fn buffers_at_rest_are_bounded() {
        let many: Vec<_> = (0..40).map(|_| Buffer::take(1 << 20)).collect();
        drop(many);
        assert!(POOL[8].lock().len() <= 4, "at most 4 MiB of 1 MiB buffers");
    }
}
