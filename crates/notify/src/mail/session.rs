//! One conversation with a mail server (RFC 5321).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::MailLogin;
use crate::NotifyError;
use crate::channel::ANSWER_MAX;
use crate::event::one_line;

/// Bytes of a line that are read (512 are allowed), and lines of an answer.
const LINE_MAX: u64 = 2048;
const LINES_MAX: usize = 64;

/// A conversation over a connection.
pub(super) struct Session<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Waits for the server's greeting.
    pub(super) async fn greeted(stream: S) -> Result<Self, NotifyError> {
        let mut session = Self::begun(stream);
        session.answer(&[220]).await?;
        Ok(session)
    }

    /// Goes on over a connection that was greeted on before.
    pub(super) fn begun(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Says hello; what the server offers, a line each.
    pub(super) async fn hello(&mut self) -> Result<Vec<String>, NotifyError> {
        // RFC 5321, section 4.1.3: who has no name says an address.
        self.write("EHLO [127.0.0.1]").await?;
        let lines = self.answer(&[250]).await?;
        Ok(lines.iter().map(|line| line.to_ascii_uppercase()).collect())
    }

    /// Logs in with the mechanism that the server offers: PLAIN (RFC 4616) or LOGIN.
    pub(super) async fn log_in(
        &mut self,
        offers: &[String],
        login: &MailLogin,
    ) -> Result<(), NotifyError> {
        let mechanisms = offers.iter().find_map(|line| line.strip_prefix("AUTH "));
        let offered = |name| mechanisms.is_some_and(|all| all.split(' ').any(|one| one == name));
        if offered("PLAIN") {
            let both = STANDARD.encode(format!("\0{}\0{}", login.user, login.password));
            self.say_secret("AUTH PLAIN ", &both, 235).await?;
        } else if offered("LOGIN") {
            self.say("AUTH LOGIN", 334).await?;
            self.say(&STANDARD.encode(&login.user), 334).await?;
            self.say_secret("", &STANDARD.encode(&login.password), 235).await?;
        } else {
            let why = "the mail server offers neither AUTH PLAIN nor AUTH LOGIN";
            return Err(NotifyError::Undelivered(why.into()));
        }
        Ok(())
    }

    /// Says a line, which must be answered with `code`; the answer, as one line.
    pub(super) async fn say(&mut self, text: &str, code: u16) -> Result<String, NotifyError> {
        self.write(text).await?;
        let lines = self.answer(&[code]).await?;
        Ok(one_line(&format!("{code} {}", lines.join(" ")), ANSWER_MAX))
    }

    /// Says a line that ends in a secret. What the server says to it is told unless it repeats the secret.
    async fn say_secret(&mut self, verb: &str, secret: &str, code: u16) -> Result<(), NotifyError> {
        let said = self.say(&format!("{verb}{secret}"), code).await;
        let repeated = secret.get(..8).unwrap_or(secret);
        match said {
            Err(NotifyError::Undelivered(said)) if said.contains(repeated) => {
                Err(NotifyError::Undelivered("the mail server refuses the log-in".into()))
            }
            said => said.map(drop),
        }
    }

    /// Names a recipient, whom the server may know elsewhere (RFC 5321, section 3.4).
    pub(super) async fn recipient(&mut self, mailbox: &str) -> Result<(), NotifyError> {
        self.write(&format!("RCPT TO:<{mailbox}>")).await?;
        self.answer(&[250, 251]).await.map(drop)
    }

    /// Says goodbye; the mail is delivered, whatever becomes of that.
    pub(super) async fn leave(&mut self) {
        let _ = self.write("QUIT").await;
        let _ = self.stream.shutdown().await;
    }

    /// The connection, to be wrapped. Refused if the server said more than it was asked: that would be taken for what it
    /// says after TLS.
    pub(super) fn into_inner(self) -> Result<S, NotifyError> {
        if self.stream.buffer().is_empty() {
            return Ok(self.stream.into_inner());
        }
        Err(NotifyError::Undelivered("the mail server said something before TLS".into()))
    }

    async fn write(&mut self, text: &str) -> Result<(), NotifyError> {
        let gone = |e| NotifyError::undelivered(&e);
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await.map_err(gone)?;
        self.stream.flush().await.map_err(gone)
    }

    /// The texts of an answer with one of those codes; any other is an error that says it.
    async fn answer(&mut self, codes: &[u16]) -> Result<Vec<String>, NotifyError> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let (found, text) = line.split_at_checked(3).unwrap_or((&line, ""));
            lines.push(text.get(1..).unwrap_or_default().to_owned());
            if text.starts_with('-') && lines.len() < LINES_MAX {
                continue;
            }
            let known = codes.iter().any(|code| found == code.to_string());
            if known && !text.starts_with('-') {
                return Ok(lines);
            }
            let said = one_line(&format!("{found} {}", lines.join(" ")), ANSWER_MAX);
            return Err(NotifyError::Undelivered(format!("the mail server says {said}")));
        }
    }

    async fn line(&mut self) -> Result<String, NotifyError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_MAX);
        let read = limited.read_until(b'\n', &mut bytes).await;
        read.map_err(|e| NotifyError::undelivered(&e))?;
        if bytes.pop() != Some(b'\n') {
            let why = "the mail server closed the connection, or said too long a line";
            return Err(NotifyError::Undelivered(why.into()));
        }
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What `work` says to a server that says `script`, and what comes of it.
    async fn told<T, F>(
        script: &str,
        work: impl FnOnce(Session<tokio::io::DuplexStream>) -> F,
    ) -> (T, String)
    where
        F: Future<Output = T>,
    {
        let (ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(script.as_bytes()).await.unwrap();
        let result = work(Session::begun(ours)).await;
        let mut said = String::new();
        theirs.read_to_string(&mut said).await.unwrap();
        (result, said)
    }

    fn login() -> MailLogin {
        MailLogin { user: "u".into(), password: "p".into() }
    }

    #[tokio::test]
    async fn a_log_in_takes_what_is_offered() {
        let work = |mut session: Session<_>| async move {
            let offers = session.hello().await?;
            session.log_in(&offers, &login()).await
        };
        let (result, said) = told("250-me\r\n250 AUTH LOGIN PLAIN\r\n235 ok\r\n", work).await;
        assert!(result.is_ok() && said.ends_with("AUTH PLAIN AHUAcA==\r\n"), "{said}");
        let (result, said) =
            told("250-me\r\n250 auth login\r\n334 x\r\n334 y\r\n235 ok\r\n", work).await;
        assert!(result.is_ok() && said.ends_with("AUTH LOGIN\r\ndQ==\r\ncA==\r\n"), "{said}");
        let (result, said) = told("250 me\r\n", work).await;
        assert!(result.is_err() && !said.contains("AUTH"), "{said}");
        let (result, _) = told("250 AUTH PLAIN\r\n535 no\r\n", work).await;
        assert_eq!(result.unwrap_err().to_string(), "the mail server says 535 no");
        let (result, _) = told("250 AUTH PLAIN\r\n501 what is AHUAcA==\r\n", work).await;
        assert!(!result.unwrap_err().to_string().contains("AHUA"));
    }

    #[tokio::test]
    async fn a_recipient_may_be_known_elsewhere() {
        let name = |mut session: Session<_>| async move { session.recipient("a@b").await };
        let (result, said) = told("251 will forward\r\n", name).await;
        assert!(result.is_ok() && said == "RCPT TO:<a@b>\r\n", "{said}");
        assert!(told("252 cannot say\r\n", name).await.0.is_err());
        assert!(told("450 later\r\n", name).await.0.is_err());
    }

    #[tokio::test]
    async fn a_server_cannot_keep_us_reading_nor_speak_before_tls() {
        let say = |mut session: Session<_>| async move { session.say("NOOP", 250).await };
        for script in
            ["x".repeat(4096), "250-more\r\n".repeat(5000), "250 no end".into(), "\r\n".into()]
        {
            let (ours, mut theirs) = duplex(64 << 10);
            theirs.write_all(script.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            assert!(say(Session::begun(ours)).await.is_err(), "{script:.20}");
        }
        let starttls = |mut session: Session<_>| async move {
            session.say("STARTTLS", 220).await?;
            session.into_inner().map(drop)
        };
        assert!(told("220 go\r\n", starttls).await.0.is_ok());
        assert!(told("220 go\r\n250 AUTH PLAIN\r\n", starttls).await.0.is_err());
    }
}
