//! A small NFS client: one connection, reads and durable writes.

use std::{io, net::SocketAddr};

use nfs3_client::{
    Nfs3Connection, Nfs3ConnectionBuilder,
    io::{AsyncRead, AsyncWrite},
    net::Connector,
    nfs3_types::{
        nfs3::{
            LOOKUP3args, Nfs3Result, READ3args, WRITE3args, diropargs3, filename3, nfs_fh3,
            stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection whose end is an error: the client library's own reads on at the end for ever.
struct Tcp(TcpStream);

impl AsyncRead for Tcp {
    async fn async_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

impl AsyncWrite for Tcp {
    async fn async_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf).await
    }
}

struct Connect;

impl Connector for Connect {
    type Connection = Tcp;

    async fn connect(&self, address: SocketAddr) -> io::Result<Tcp> {
        TcpStream::connect(address).await.map(Tcp)
    }

    async fn connect_with_port(&self, address: SocketAddr, _: u16) -> io::Result<Tcp> {
        self.connect(address).await
    }
}

/// One mounted export.
pub(crate) struct Mount {
    connection: Nfs3Connection<Tcp>,
}

impl Mount {
    pub(crate) async fn new(server: SocketAddr, path: &str) -> Self {
        let mounted = Nfs3ConnectionBuilder::new(Connect, server.ip().to_string(), path)
            .connect_from_privileged_port(false)
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
        let read = self.try_read(file, offset, len).await;
        read.unwrap_or_else(|| panic!("read {len} at {offset}"))
    }

    /// `None` when the server answers with an error.
    pub(crate) async fn try_read(
        &mut self,
        file: &nfs_fh3,
        offset: u64,
        len: usize,
    ) -> Option<Vec<u8>> {
        let args = READ3args { file: file.clone(), offset, count: len as u32 };
        match self.connection.read(&args).await.unwrap() {
            Nfs3Result::Ok(read) => Some(read.data.to_vec()),
            Nfs3Result::Err((status, _)) => {
                eprintln!("read {len} at {offset}: {status:?}");
                None
            }
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
        match self.connection.write(&args).await {
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
