//! A small NFS client: one connection, reads and durable writes.

use std::{net::SocketAddr, time::Duration};

use nfs3_client::{
    Nfs3ConnectionBuilder,
    nfs3_types::{
        nfs3::{
            LOOKUP3args, Nfs3Result, READ3args, WRITE3args, diropargs3, filename3, nfs_fh3,
            stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
    tokio::{TokioConnector, TokioIo},
};
use tokio::net::TcpStream;

/// The client library reads on for ever from a connection that the server has closed, so a write that
/// has no answer after this long counts as cut off.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Connection = nfs3_client::Nfs3Connection<TokioIo<TcpStream>>;

/// One mounted export.
pub(crate) struct Mount {
    connection: Connection,
}

impl Mount {
    pub(crate) async fn new(server: SocketAddr, path: &str) -> Self {
        let mounted = Nfs3ConnectionBuilder::new(TokioConnector, server.ip().to_string(), path)
            .connect_from_privileged_port(false)
            .credential(opaque_auth::auth_unix(&auth_unix::default()))
            .credential(opaque_auth::auth_unix(&auth_unix::default()))
            .mount_port(server.port())
            .nfs3_port(server.port())
            .mount()
            .await;
        Self { connection: mounted.unwrap_or_else(|e| panic!("mount {path}: {e:?}")) }
    }

    /// The handle of a file, by its path below the export.
    pub(crate) async fn handle(&mut self, path: &[&str]) -> nfs_fh3 {
        let mut handle = self.connection.root_nfs_fh3();
        for name in path {
            let name = filename3(Opaque::borrowed(name.as_bytes()));
            let what = diropargs3 { dir: handle, name };
            match self.connection.lookup(&LOOKUP3args { what }).await.unwrap() {
                Nfs3Result::Ok(found) => handle = found.object,
                Nfs3Result::Err((status, _)) => panic!("look up {path:?}: {status:?}"),
            }
        }
        handle
    }

    pub(crate) async fn read(&mut self, file: &nfs_fh3, offset: u64, len: usize) -> Vec<u8> {
        let args = READ3args { file: file.clone(), offset, count: len as u32 };
        match self.connection.read(&args).await.unwrap() {
            Nfs3Result::Ok(read) => read.data.to_vec(),
            Nfs3Result::Err((status, _)) => panic!("read {len} at {offset}: {status:?}"),
        }
    }

    /// A FILE_SYNC write. `false` when the server went away before it answered.
    pub(crate) async fn write(&mut self, file: &nfs_fh3, offset: u64, data: &[u8]) -> bool {
        let args = WRITE3args {
            file: file.clone(),
            offset,
            count: data.len() as u32,
            stable: stable_how::FILE_SYNC,
            data: Opaque::borrowed(data),
        };
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.connection.write(&args)).await;
        let Ok(answered) = answered else { return false };
        match answered {
            Ok(Nfs3Result::Ok(written)) => {
                assert_eq!(written.count as usize, data.len());
                assert_eq!(written.committed, stable_how::FILE_SYNC);
                true
            }
            Ok(Nfs3Result::Err((status, _))) => panic!("write at {offset}: {status:?}"),
            Err(_) => false,
        }
    }
}
