//! What commands say that fail.

use crate::support::scene::{Scene, ran};

#[test]
fn a_view_that_cannot_be_mounted_is_reported_once() {
    let scene = Scene::new();
    std::fs::write(scene.path("file"), "").unwrap();
    for more in [&[][..], &["--foreground"]] {
        let mut command = scene.command();
        command.args(["mount", "--closure", "env-a.lock", "--store"]).arg(scene.store.root());
        command.args(["--tmp", "file"]).args(more).current_dir(scene.dir.path());
        let failed = ran(command.output().unwrap()).failed(1, &["cannot mount on ", "Not a directory"]);
        assert_eq!(failed.err.matches("cannot mount on ").count(), 1, "{more:?}: {failed:?}");
    }
}

/// What the environment gives is not asked for; help names the variables.
#[test]
fn a_usage_line_has_no_options_of_the_environment() {
    let said = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nixview"));
        command.env("NIXVIEW_STATE_DIR", "/none").env("NIXVIEW_RUNTIME_DIR", "/none");
        ran(command.env("NIXVIEW_NO_GC_WARNING", "1").args(words).output().unwrap())
    };
    said(&["umount"]).failed(2, &["Usage: nixview umount <VIEW>\n"]);
    said(&["mount"]).failed(2, &["Usage: nixview mount --closure <FILE> <TARGET>\n"]);
    let given = said(&["mount", "--state-dir", "/x"]);
    given.failed(2, &["Usage: nixview mount --closure <FILE> --state-dir <DIR> <TARGET>\n"]);
    assert!(said(&["umount", "--help"]).ok().out.contains("[env: NIXVIEW_STATE_DIR]"));
}
