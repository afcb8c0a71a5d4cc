//! Which real files are held open, so that a READ or WRITE need not look for them.

use super::node::{Body, Node};
use super::{Export, Status};
use nfsserve::nfs::nfsstat3::NFS3ERR_INVAL;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Weak};

/// Files held open by all exports together.
const HELD: usize = 512;

/// The files that are held open, oldest first.
#[derive(Default)]
pub(crate) struct OpenFiles(Mutex<VecDeque<Weak<Node>>>);

impl OpenFiles {
    pub(super) fn added(&self, node: &Arc<Node>) {
        let mut held = self.0.lock();
        held.push_back(Arc::downgrade(node));
        if held.len() <= HELD {
            return;
        }
        let oldest = held.pop_front();
        drop(held);
        // Those who use it have it open until they are done.
        if let Some(file) = oldest.as_ref().and_then(Weak::upgrade).as_deref().and_then(Node::file)
        {
            *file.open.lock() = None;
        }
    }
}

impl Export {
    /// The open real file of a regular file, opening it if need be. Blocks.
    pub(crate) fn open_file(&self, node: &Node) -> Result<Arc<File>, Status> {
        let Body::File(body) = &node.body else { return Err(NFS3ERR_INVAL) };
        if let Some(file) = &*body.open.lock() {
            return Ok(file.clone());
        }
        let file = Arc::new(File::from(self.open(node, OFlags::RDWR)?));
        if let Some(node) = self.node(node.id) {
            let mut open = body.open.lock();
            if let Some(file) = &*open {
                return Ok(file.clone());
            }
            *open = Some(file.clone());
            drop(open);
            self.shared.open_files.added(&node);
        }
        Ok(file)
    }
}
