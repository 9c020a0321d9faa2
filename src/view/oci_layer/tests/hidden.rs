//! What whiteouts and opaque marks of a layer hide.

use super::*;

#[test]
fn whiteouts_hide_the_lower_and_nothing_of_the_archive_wherever_they_come() {
    let file = |at: &str| entry(at, Body::file(3));
    let dir = |at: &str| entry(at, Body::Directory);
    let mark = |at: &str| entry(at, Body::file(0));
    let members = [
        mark("nix/store/p/.wh.bin"),
        mark("nix/store/p/bin/.wh..wh..opq"),
        dir("nix/store/p"),
        file("nix/store/p/bin/a"),
        mark("nix/store/p/.wh.gone"),
        file("nix/store/p/kept"),
        mark("nix/store/p/.wh.kept"),
        mark("nix/store/p/.wh..wh.plnk"),
        mark("nix/store/.wh.unknown"),
        mark("nix/store/absent/.wh.x"),
    ];
    let mut backwards = members.clone();
    backwards.reverse();
    let upper = imported(&members);
    assert_eq!(tree(&upper), tree(&imported(&backwards)));
    assert!(is_whiteout(&upper, "store/p/gone") && is_whiteout(&upper, "store/unknown"));
    assert!(upper.is_opaque(&upper.resolve(&path("store/p/bin")).unwrap()).unwrap());
    assert!(!upper.is_opaque(&upper.resolve(&path("store/p")).unwrap()).unwrap());
    let names: Vec<String> = tree(&upper).into_keys().collect();
    let expected = [
        "/store",
        "/store/p",
        "/store/p/bin",
        "/store/p/bin/a",
        "/store/p/gone",
        "/store/p/kept",
        "/store/unknown",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_hidden_directory_stays_hidden_whatever_is_hidden_below_it() {
    let mark = |at: &str| entry(at, Body::file(0));
    let members = [
        mark("nix/store/.wh.p"),
        mark("nix/store/p/.wh.bin"),
        mark("nix/store/p/bin/.wh.a"),
        mark("nix/store/p/bin/.wh..wh..opq"),
    ];
    let mut backwards = members.clone();
    backwards.reverse();
    for members in [members, backwards] {
        let upper = imported(&members);
        assert!(is_whiteout(&upper, "store/p"));
        assert_eq!(tree(&upper).len(), 2, "{:?}", tree(&upper));
    }
    // What the layer has there shows all the same, and nothing of the lower.
    let upper = imported(&[
        mark("nix/store/.wh.p"),
        mark("nix/store/p/.wh.bin"),
        entry("nix/store/p/f", Body::file(1)),
    ]);
    assert!(Upper::is_opaque(&upper, &upper.resolve(&path("store/p")).unwrap()).unwrap());
    assert!(is_whiteout(&upper, "store/p/bin"));
}

#[test]
fn whiteouts_below_a_hidden_directory_make_no_directory_there() {
    let mark = |at: &str| entry(at, Body::file(0));
    let names = |members: &[Entry]| tree(&imported(members)).into_keys().collect::<Vec<String>>();
    let file = entry("nix/store/p/only", Body::file(1));
    let below = mark("nix/store/p/bin/.wh.a");
    for members in [
        [mark("nix/store/p/.wh..wh..opq"), below.clone()],
        [mark("nix/store/.wh..wh..opq"), mark("nix/store/p/bin/.wh.a")],
        [mark("nix/store/p/.wh..wh..opq"), mark("nix/store/p/bin/.wh..wh..opq")],
    ] {
        let shown = names(&members);
        assert!(!shown.iter().any(|at| at.starts_with("/store/p/")), "{shown:?}");
    }
    for hiding in [mark("nix/store/.wh.p"), mark("nix/store/p/.wh..wh..opq"), mark("nix/.wh.store")] {
        let members = [hiding, file.clone(), below.clone()];
        assert_eq!(names(&members), ["/store", "/store/p", "/store/p/only"]);
        let mut backwards = members.clone();
        backwards.reverse();
        assert_eq!(names(&backwards), ["/store", "/store/p", "/store/p/only"]);
    }
}

#[test]
fn whiteouts_below_what_replaces_a_directory_hide_nothing_more() {
    let mark = |at: &str| entry(at, Body::file(0));
    // A link to a directory that the layer has itself: following it would hide a name there.
    let link = Body::Symlink(b"/nix/store/new".to_vec());
    for body in [Body::file(3), link, Body::Node { kind: FileKind::Fifo, rdev: 0 }] {
        let members = [
            entry("nix/store/new", Body::Directory),
            entry("nix/store/new/a", Body::file(1)),
            entry("nix/store/p/bin", body),
            mark("nix/store/p/bin/.wh.a"),
            mark("nix/store/p/bin/menu/.wh.a"),
            mark("nix/store/p/bin/menu/.wh..wh..opq"),
        ];
        let mut backwards = members.clone();
        backwards.swap(0, 1);
        backwards.reverse();
        let alone = tree(&imported(members.get(..3).unwrap()));
        assert_eq!(tree(&imported(&members)), alone);
        assert_eq!(tree(&imported(&backwards)), alone);
    }
}
