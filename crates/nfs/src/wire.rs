//! XDR (RFC 4506) in place: arguments are read from the received record, replies appended to a buffer.

use nfsserve::nfs::{fattr3, wcc_attr};
use nfsserve::xdr::XDR;

/// Arguments that end too early, are too long, or say what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

/// Reads arguments one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
}

impl<'a> Args<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Garbage)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Garbage> {
        let (word, rest) = self.bytes.split_first_chunk().ok_or(Garbage)?;
        self.bytes = rest;
        Ok(u32::from_be_bytes(*word))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Garbage> {
        let (word, rest) = self.bytes.split_first_chunk().ok_or(Garbage)?;
        self.bytes = rest;
        Ok(u64::from_be_bytes(*word))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        self.take(N)?.try_into().map_err(|_| Garbage)
    }

    /// A variable-length opaque of at most `limit` bytes, and its padding.
    pub(crate) fn opaque(&mut self, limit: usize) -> Result<&'a [u8], Garbage> {
        let len = self.u32()? as usize;
        if len > limit {
            return Err(Garbage);
        }
        let bytes = self.take(len)?;
        self.take(padding(len))?;
        Ok(bytes)
    }

    /// One of nfsserve's types of fixed length. Not for those with vectors, which it allocates as long as it is told.
    pub(crate) fn value<T: XDR + Default>(&mut self) -> Result<T, Garbage> {
        let mut value = T::default();
        value.deserialize(&mut self.bytes).map_err(|_| Garbage)?;
        Ok(value)
    }
}

/// Bytes that follow an opaque of `len` bytes up to the next multiple of four.
pub(crate) fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// Appends XDR to a buffer.
pub(crate) trait Put {
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_opaque(&mut self, bytes: &[u8]);
    fn put_pad(&mut self, len: usize);
    /// One of nfsserve's types.
    fn put_value<T: XDR>(&mut self, value: &T);
    /// `post_op_attr`.
    fn put_attributes(&mut self, attributes: Option<&fattr3>);
    /// `wcc_data`.
    fn put_wcc(&mut self, before: Option<&wcc_attr>, after: Option<&fattr3>);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_opaque(&mut self, bytes: &[u8]) {
        self.put_u32(bytes.len() as u32);
        self.extend_from_slice(bytes);
        self.put_pad(bytes.len());
    }

    fn put_pad(&mut self, len: usize) {
        self.extend_from_slice(&[0; 3][..padding(len)]);
    }

    fn put_value<T: XDR>(&mut self, value: &T) {
        // Writing to a vector cannot fail.
        let _ = value.serialize(self);
    }

    fn put_attributes(&mut self, attributes: Option<&fattr3>) {
        self.put_u32(attributes.is_some().into());
        if let Some(attributes) = attributes {
            self.put_value(attributes);
        }
    }

    fn put_wcc(&mut self, before: Option<&wcc_attr>, after: Option<&fattr3>) {
        self.put_u32(before.is_some().into());
        if let Some(before) = before {
            self.put_value(before);
        }
        self.put_attributes(after);
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, Garbage, Put};

    #[test]
    fn what_is_put_is_read() {
        for len in 0..9 {
            let mut out = Vec::new();
            out.put_opaque(&vec![7; len]);
            out.put_u64(1 << 40);
            out.put_u32(1);
            assert_eq!(out.len() % 4, 0);
            let mut args = Args::new(&out);
            assert_eq!(args.opaque(len).unwrap(), vec![7; len]);
            assert_eq!(args.u64(), Ok(1 << 40));
            assert_eq!(args.flag(), Ok(true));
            assert_eq!(args.u32(), Err(Garbage));
        }
    }

    #[test]
    fn lengths_that_lie_are_garbage() {
        assert_eq!(Args::new(&[0xff; 4]).opaque(usize::MAX), Err(Garbage));
        assert_eq!(Args::new(&[0, 0, 0, 2, 1, 2]).opaque(8), Err(Garbage), "no padding");
        assert_eq!(
            Args::new(&[0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]).opaque(8),
            Err(Garbage)
        );
    }
}
