//! Takes secrets out of text.

/// What stands in a secret's place.
const REMOVED: &str = "[removed]";
/// Shorter ones would take common words out, and protect nothing.
const SHORTEST: usize = 4;
/// Keys whose quoted value is a secret, wherever they stand: in a configuration that is refused because they are in it,
/// in JSON or in a log line. Names of files and credentials end otherwise.
const KEYS: [&str; 5] = ["password", "passkey", "passphrase", "secret", "token"];

/// Knows the secrets that must not be in a text, and what others look like.
pub(super) struct Redactor(Vec<String>);

impl Redactor {
    pub(super) fn new(secrets: Vec<String>) -> Self {
        let mut known: Vec<String> = secrets
            .iter()
            .flat_map(|text| [text.trim().to_owned(), as_json(text.trim())])
            .filter(|secret| secret.len() >= SHORTEST)
            .collect();
        // The longest first: one may hold another.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        known.dedup();
        Self(known)
    }

    pub(super) fn clean(&self, text: &str) -> String {
        let known =
            self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, REMOVED));
        known.split_inclusive('\n').map(|line| url_user(&quoted(&bearer(line)))).collect()
    }
}

/// A secret as JSON and TOML write it.
fn as_json(secret: &str) -> String {
    let quoted = serde_json::Value::from(secret).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The word behind `Bearer`.
fn bearer(line: &str) -> String {
    let mut parts = line.split("Bearer ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |clean, rest| {
        let end =
            rest.find(|c: char| c.is_whitespace() || "\"'\\".contains(c)).unwrap_or(rest.len());
        format!("{clean}Bearer {REMOVED}{}", &rest[end..])
    })
}

/// What stands in quotes behind a key that ends like one of [`KEYS`].
fn quoted(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut clean = String::new();
    let mut from = 0;
    while let Some(key_end) = next_key(&lower, from) {
        let opening = lower[key_end..].trim_start_matches(['"', '\'', ' ', '\t', '\\']);
        let behind = opening.strip_prefix(['=', ':']).map(str::trim_start);
        let quote =
            behind.and_then(|value| value.chars().next()).filter(|c| matches!(c, '"' | '\''));
        let (Some(value), Some(quote)) = (behind, quote) else {
            clean.push_str(&line[from..key_end]);
            from = key_end;
            continue;
        };
        let start = lower.len() - value.len() + 1;
        let end = lower[start..].find(quote).map_or(line.trim_end().len(), |length| start + length);
        clean.push_str(&line[from..start]);
        clean.push_str(REMOVED);
        from = end.max(start);
    }
    clean + &line[from..]
}

/// Where the next such key ends, behind `from`.
fn next_key(lower: &str, from: usize) -> Option<usize> {
    let ends = |key: &&str| lower[from..].find(*key).map(|at| from + at + key.len());
    KEYS.iter().filter_map(ends).min()
}

/// The password in `scheme://user:password@host`.
fn url_user(line: &str) -> String {
    let mut parts = line.split("://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |clean, rest| {
        let host_end =
            rest.find(|c: char| c.is_whitespace() || "/\"'".contains(c)).unwrap_or(rest.len());
        let password = rest[..host_end].rfind('@').and_then(|at| Some((rest[..at].find(':')?, at)));
        match password {
            Some((colon, at)) => format!("{clean}://{}:{REMOVED}{}", &rest[..colon], &rest[at..]),
            None => format!("{clean}://{rest}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_go_wherever_they_are() {
        let redactor =
            Redactor::new(vec!["hunter2\n".into(), "hunter2-long\"er".into(), "x".into()]);
        let clean = redactor.clean("a hunter2 b hunter2-long\"er, \"hunter2-long\\\"er\" x");
        assert_eq!(clean, "a [removed] b [removed], \"[removed]\" x");
    }

    #[test]
    fn what_looks_like_a_secret_goes_too() {
        let redactor = Redactor::new(Vec::new());
        for (text, clean) in [
            ("Authorization: Bearer abc.def\n", "Authorization: Bearer [removed]\n"),
            ("password = \"open\"\n", "password = \"[removed]\"\n"),
            (
                "{\"Password\": \"a\", \"token\":'b', \"n\": 1}",
                "{\"Password\": \"[removed]\", \"token\":'[removed]', \"n\": 1}",
            ),
            ("secret = \"half\n", "secret = \"[removed]\n"),
            (
                "https://me:pw@host/x and ftp://u:p@h",
                "https://me:[removed]@host/x and ftp://u:[removed]@h",
            ),
        ] {
            assert_eq!(redactor.clean(text), clean);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let redactor = Redactor::new(Vec::new());
        for text in [
            "password_file = \"/etc/rekindle/password\"\n",
            "token_credential = \"rekindle_token\"\n",
            "the token is missing\nhttps://host:8480/a@b\n",
            "mail a@b.example: hello",
            "",
        ] {
            assert_eq!(redactor.clean(text), text);
        }
    }
}
