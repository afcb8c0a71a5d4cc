use std::io;
use std::path::PathBuf;

/// What is wrong with an image, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Try again later: the file could not be read.
    #[error("cannot read {file}")]
    Unavailable {
        /// Which file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Get another copy: the file is cut short or damaged.
    #[error("{file} is damaged: {detail}")]
    Corrupt {
        /// Which file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Convert it first: it may well be sound, but this build does not read its kind.
    #[error("{file} cannot be read: {what}")]
    Unsupported {
        /// Which file.
        file: String,
        /// What is not supported.
        what: String,
    },
    /// Fix the reference: an image may only use files in its own directory.
    #[error("{name:?} leads out of the directory {}", root.display())]
    Escapes {
        /// The name that was followed.
        name: String,
        /// The directory it has to stay in.
        root: PathBuf,
    },
    /// There is no such file.
    #[error("{file} does not exist")]
    NotFound {
        /// Which file.
        file: String,
    },
}

impl ImageError {
    pub(crate) fn corrupt(file: &str, detail: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), detail: detail.into() }
    }

    pub(crate) fn unsupported(file: &str, what: impl Into<String>) -> Self {
        Self::Unsupported { file: file.to_owned(), what: what.into() }
    }

    pub(crate) fn io(file: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { file: file.to_owned() },
            io::ErrorKind::UnexpectedEof => Self::corrupt(file, "it ends too early"),
            _ => Self::Unavailable { file: file.to_owned(), source: error },
        }
    }
}
