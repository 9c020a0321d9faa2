//! The README's quick start, pasted line by line: with real Nix and an empty `/nix`, in a mount namespace of its own.

use std::process::{Command, Stdio};

use crate::support::quick_start::lines;
use crate::support::skip::skip;

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn the_quick_start_works_when_it_is_pasted() {
    for (program, package) in [("nix-store", "nix-bin"), ("busybox", "busybox-static")] {
        if Command::new(program).arg("--help").output().is_err() {
            skip!("there is no {program} (Debian: {package})");
            return;
        }
    }
    let dir = tempfile::Builder::new().prefix("nv").tempdir_in("/tmp").unwrap();
    let release = dir.path().join("clone/target/release");
    std::fs::create_dir_all(&release).unwrap();
    for below in ["nix", "run", "state"] {
        std::fs::create_dir(dir.path().join(below)).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_nixview"), release.join("nixview")).unwrap();
    // What installs and builds is done: those lines need a network, and minutes.
    let lines: Vec<String> = lines()
        .into_iter()
        .filter(|line| !line.starts_with("apt-get ") && !line.starts_with("cargo "))
        .collect();
    let at = dir.path().display();
    let begin = format!(
        "mount --bind {at}/nix /nix; mount --bind {at}/run /run; cd {at}/clone
         export NIXVIEW_STATE_DIR={at}/state NIXVIEW_RUNTIME_DIR={at}/run/nixview
         unset NIX_REMOTE NIX_CONF_DIR; set -e"
    );
    // Line by line, as a shell reads what is pasted: a line that fails ends it, and is the last of the trace.
    let script = format!("{begin}\nset -x\n{}\necho all done\n", lines.join("\n"));
    let mut child = Command::new("timeout")
        .args(["-k", "5", "120", "unshare", "--mount", "--propagation", "private", "bash", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (output.stdout.escape_ascii().to_string(), output.stderr.escape_ascii().to_string());
    assert!(output.status.success() && out.ends_with("all done\\n"), "{out}\n{err}");
    for part in ["/nix/store/new", "hello.lock", "mounted"] {
        assert!(out.contains(part), "{part}: {out}\n{err}");
    }
    assert!(!err.contains("nixview: warning"), "{err}");
}
