//! The support bundle of a running appliance: what it tells, and that secrets are not in it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::Command,
};

use super::process::Site;

const PASSWORD: &str = "planted-\"password\"-of-a-target";
const AWS_KEY: &str = "planted/aws+key";

fn bundle(site: &Site, url: &str) -> String {
    let out = site.path("bundle.txt");
    let _ = fs::remove_file(&out);
    let output = Command::new(env!("CARGO_BIN_EXE_rekindle"))
        .arg("support-bundle")
        .args(["--url", url, "--out"])
        .args([&out, &"--config".into(), &site.config()])
        .env_remove("REKINDLE_TOKEN")
        .env("AWS_SECRET_ACCESS_KEY", AWS_KEY)
        .env_remove("REKINDLE_TOKEN_FILE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    fs::read_to_string(&out).unwrap()
}

#[tokio::test]
async fn a_support_bundle_tells_how_things_are_and_no_secret() {
    let site = Site::new();
    let file = site.path("password");
    let mut password =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
    writeln!(password, "{PASSWORD}").unwrap();
    let mut config = OpenOptions::new().append(true).open(site.config()).unwrap();
    // A comment with a password in it, and one in an address, as people leave them.
    writeln!(
        config,
        "# was: {PASSWORD}\n# and {AWS_KEY}\n[[target]]\nname = \"vc\"\nkind = \"vsphere\"\nserver = \"127.0.0.1\"\n\
         url = \"https://someone:planted-in-url@127.0.0.1:9\"\nuser = \"u\"\npassword_file = \"{}\"",
        file.display()
    )
    .unwrap();
    site.ingest("web");
    let daemon = site.start();
    let token = daemon.token();
    // A job whose name is the token: the API answers with it.
    daemon.cli(&["recover", "web", "--client", "127.0.0.1", "--name", &token, "--wait"]);

    let text = bundle(&site, &daemon.url);
    for told in [
        "=== rekindle",
        "rekindle_jobs{state=\"serving\"} 1",
        "=== API: jobs",
        "serving",
        "MemTotal",
        "ram_bytes: 67108864",
        "admin-token",
    ] {
        assert!(text.contains(told), "{told} is not in it");
    }
    assert!(text.contains("https://someone:[removed]@127.0.0.1:9"));
    assert!(text.matches("[removed]").count() >= 4, "{text}");
    for secret in [token.as_str(), PASSWORD, AWS_KEY, "planted-\\\"password", "planted-in-url"] {
        assert!(!text.contains(secret), "{secret} is in it");
    }

    daemon.stop(&[]);
    let text = bundle(&site, "http://127.0.0.1:9");
    assert!(text.contains("(not to be had: cannot reach http://127.0.0.1:9"), "{text}");
    assert!(text.contains("MemTotal") && !text.contains(&token));
}
