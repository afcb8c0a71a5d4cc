use rekindle_jobs::{Forecast, Limit, Span};

use super::table::{bytes, printable, seconds};

/// Prints how long a recovery would take.
pub(super) fn print(forecast: &Forecast) {
    println!("{} of {}, {}", forecast.point, printable(&forecast.vm), bytes(forecast.size_bytes));
    println!("  until served   {}", span(forecast.to_power_on));
    println!("  migration      {}", span(forecast.to_full_copy));
    println!("  limit          {}", limit(forecast.limited_by));
    println!("  reserves       {}", bytes(forecast.reserve_bytes));
    if let Some(waits) = &forecast.waits_for {
        println!("  waits for      {}", printable(waits));
    }
    let of = if forecast.same_vm { "this VM" } else { "other VMs" };
    match forecast.samples {
        0 => println!("  nobody has done the like here before"),
        samples => println!("  told from {samples} recoveries of {of}"),
    }
}

fn span(span: Option<Span>) -> String {
    match span {
        None => "not known".into(),
        Some(span) => {
            format!("{} ({} to {})", time(span.likely_ms), time(span.low_ms), time(span.high_ms))
        }
    }
}

fn time(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { seconds(ms / 1000) }
}

fn limit(limit: Limit) -> String {
    match limit {
        Limit::Step(step) => format!("step {}", step.as_str()),
        Limit::Repository => "how fast the repository is read".into(),
        Limit::MoverLimit => "mover.max_bytes_per_second".into(),
        Limit::Unknown => "not known".into(),
    }
}
