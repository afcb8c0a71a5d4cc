//! NFSv3, MOUNT and portmap server.
