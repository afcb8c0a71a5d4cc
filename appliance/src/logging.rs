//! What is logged, where, and in which form.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::LogFormat;

/// The daemon's log on stderr. RUST_LOG selects; `info` by default, but for the S3 SDK, which tells the ids of keys at
/// that level.
pub(crate) fn daemon(format: LogFormat) {
    let builder = fmt()
        .with_env_filter(filter("info,aws_config=warn,aws_runtime=warn,aws_smithy_runtime=warn"))
        .with_writer(stderr);
    let text = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        builder.with_ansi(stderr().is_terminal()).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// A command's log on stderr: only what a person should know, `warn` by default.
pub(crate) fn command() {
    fmt()
        .with_env_filter(filter("warn"))
        .with_writer(stderr)
        .without_time()
        .with_target(false)
        .init();
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}
