//! GETATTR, LOOKUP, ACCESS and READLINK: answered from memory.

use super::{At, LONGEST_ARGUMENT_NAME, Request};
use crate::export::Status;
use crate::export::access::EXEC;
use crate::export::node::{Body, Kind};
use crate::wire::{Args, Garbage, Put};
use nfsserve::nfs::nfsstat3::{NFS3_OK, NFS3ERR_INVAL};

impl Request<'_> {
    /// RFC 1813 section 3.3.1.
    pub(super) fn getattr(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        out.put_u32(NFS3_OK as u32);
        out.put_value(&self.at.attributes());
        Ok(())
    }

    /// RFC 1813 section 3.3.3.
    pub(super) fn lookup(
        &self,
        mut args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, Garbage> {
        let name = args.opaque(LONGEST_ARGUMENT_NAME)?;
        let export = &self.at.export;
        let allowed = match self.at.node.kind {
            Kind::Dir => self.caller.may(&self.at.node, EXEC),
            _ => Ok(()),
        };
        let found = allowed.and_then(|()| export.lookup(&self.at.node, name));
        Ok(found.map(|node| {
            let found = At { export: export.clone(), node };
            out.put_u32(NFS3_OK as u32);
            out.put_opaque(&found.node.handle(export.id()));
            out.put_attributes(Some(&found.attributes()));
            out.put_attributes(Some(&self.at.attributes()));
        }))
    }

    /// RFC 1813 section 3.3.4.
    pub(super) fn access(
        &self,
        mut args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, Garbage> {
        let asked = args.u32()?;
        out.put_u32(NFS3_OK as u32);
        out.put_attributes(Some(&self.at.attributes()));
        out.put_u32(self.caller.access(&self.at.node, asked));
        Ok(Ok(()))
    }

    /// RFC 1813 section 3.3.5.
    pub(super) fn readlink(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let Body::Symlink(target) = &self.at.node.body else { return Err(NFS3ERR_INVAL) };
        out.put_u32(NFS3_OK as u32);
        out.put_attributes(Some(&self.at.attributes()));
        out.put_opaque(target);
        Ok(())
    }
}
