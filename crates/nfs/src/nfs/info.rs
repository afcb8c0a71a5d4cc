//! FSSTAT, FSINFO and PATHCONF.

use super::Request;
use crate::export::Status;
use crate::wire::Put;
use nfsserve::nfs::nfsstat3::NFS3_OK;
use nfsserve::nfs::{
    FSF_CANSETTIME, FSF_HOMOGENEOUS, FSF_LINK, FSF_SYMLINK, fsinfo3, nfstime3, post_op_attr,
};

/// The largest READ and WRITE that is advertised. Larger ones are served, as ESXi is known to send them.
pub(crate) const TRANSFER: u32 = 1 << 20;
/// The largest READ that is answered whole.
pub(crate) const LARGEST_READ: u32 = 4 << 20;
/// The largest file: 2^60 bytes by what is said; the file system below may have less.
pub(crate) const LARGEST_FILE: u64 = 1 << 60;
/// ESXi and ganesha think in sectors.
const MULTIPLE: u32 = 512;
const LISTING: u32 = 64 << 10;
const MOST_LINKS: u32 = 32_000;

impl Request<'_> {
    /// RFC 1813 section 3.3.18.
    pub(super) fn fsstat(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        let space = self.at.export.space();
        out.put_u32(NFS3_OK as u32);
        out.put_attributes(Some(&self.at.attributes()));
        for number in [space.total, space.free, space.free] {
            out.put_u64(number);
        }
        for number in [space.files, space.free_files, space.free_files] {
            out.put_u64(number);
        }
        // invarsec: the numbers may change at any time.
        out.put_u32(0);
        Ok(())
    }

    /// RFC 1813 section 3.3.19.
    pub(super) fn fsinfo(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        out.put_u32(NFS3_OK as u32);
        out.put_value(&fsinfo3 {
            obj_attributes: post_op_attr::attributes(self.at.attributes()),
            rtmax: TRANSFER,
            rtpref: TRANSFER,
            rtmult: MULTIPLE,
            wtmax: TRANSFER,
            wtpref: TRANSFER,
            wtmult: MULTIPLE,
            dtpref: LISTING,
            maxfilesize: LARGEST_FILE,
            time_delta: nfstime3 { seconds: 0, nseconds: 1 },
            properties: FSF_LINK | FSF_SYMLINK | FSF_HOMOGENEOUS | FSF_CANSETTIME,
        });
        Ok(())
    }

    /// RFC 1813 section 3.3.20.
    pub(super) fn pathconf(&self, out: &mut Vec<u8>) -> Result<(), Status> {
        out.put_u32(NFS3_OK as u32);
        out.put_attributes(Some(&self.at.attributes()));
        out.put_u32(MOST_LINKS);
        out.put_u32(crate::export::LONGEST_NAME as u32);
        // no_trunc, chown_restricted, case_insensitive, case_preserving.
        for flag in [1, 1, 0, 1] {
            out.put_u32(flag);
        }
        Ok(())
    }
}
