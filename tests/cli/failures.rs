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
