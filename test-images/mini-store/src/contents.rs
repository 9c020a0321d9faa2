//! What is in the tiny store.
//!
//! ```text
//!  env-a ── tool, link ──┐           env-b ── data, sparse, twin, empty, long
//!    │                   │             │
//!    ├── top ─┬─ left ───┼─ libc ⟲     │
//!    │        └─ right ──┘    │        │
//!    └── config               └─ right ┘        secret, partial: in no environment
//! ```
//!
//! | label | what it shows |
//! |---|---|
//! | `builder` | a source; a regular file as a store path |
//! | `libc`, `libc-dev` | two outputs; `libc` refers to itself, `libc-dev` to `libc` |
//! | `left` | `bin/hello`, a static x86-64 program of 193 bytes that prints `hello from mini-store` |
//! | `right` | `bin/where`, a script of `/bin/sh` |
//! | `top` | a diamond over `left` and `right`; a directory 40 levels deep; a script whose interpreter is `left` |
//! | `config` | a fixed output; a store path that is a file of mode 0444 |
//! | `tool` | a store path that is an executable file |
//! | `link` | a store path that is a symbolic link |
//! | `data` | 256 KiB of text |
//! | `sparse` | a file of 4 MiB that is nearly all hole |
//! | `twin`, `secret` | an equal file, one inode; nobody refers to `secret` |
//! | `empty` | an empty directory as a store path, and in `twin` an empty file |
//! | `long` | a source; a name of 211 bytes with every legal sign (that of a derivation counts its `.drv`) |
//! | `partial`, `partial-doc` | a derivation of which `doc` is not built |
//! | `never` | a derivation of which nothing is built |
//! | `env-a`, `env-b` | two environments; they share `right` and `libc` |

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::builder::{Builder, Member};
use crate::tree::Tree;

/// What `hello` prints.
pub const HELLO: &str = "hello from mini-store\n";

/// Size of `sparse`'s file in bytes.
pub const SPARSE_SIZE: u64 = 4 << 20;

/// All members by label.
#[must_use]
pub fn members() -> BTreeMap<String, Member> {
    let mut store = Builder::default();
    store.source("builder", "builder.sh", Tree::file("# the builder of all derivations\nexit 1\n"));
    libraries(&mut store);
    single_objects(&mut store);
    data(&mut store);
    environments(&mut store);
    unbuilt(&mut store);
    store.finish()
}

fn libraries(store: &mut Builder) {
    store.derive("libc", "libc-1.0", &["out", "dev"], &[]);
    let libc = store.at("libc");
    store.built(
        "libc",
        Tree::dir([
            ("lib/libc.so.1", Tree::file(format!("I live in {libc}\n"))),
            ("lib/libc.so", Tree::link("libc.so.1")),
        ]),
    );
    let header = Tree::file(format!("/* the library is {libc}/lib/libc.so */\n"));
    store.built("libc-dev", Tree::dir([("include/libc.h", header)]));

    store.derive("left", "left-1.0", &["out"], &["libc", "libc-dev"]);
    let hello = Tree::program(hello_program());
    let needs = Tree::file(format!("{libc}/lib\n"));
    store.built("left", Tree::dir([("bin/hello", hello), ("lib/needs", needs)]));

    store.derive("right", "right-1.0", &["out"], &["libc", "libc-dev"]);
    let script = Tree::program(format!("#!/bin/sh\n# linked with {libc}\necho \"$0\"\n"));
    store.built("right", Tree::dir([("bin/where", script)]));

    store.derive("top", "top-1.0", &["out"], &["left", "right"]);
    let (left, right) = (store.at("left"), store.at("right"));
    let deep = "d/".repeat(40) + "bottom";
    store.built(
        "top",
        Tree::dir([
            ("bin/hello-by-script", Tree::program(format!("#!{left}/bin/hello\n"))),
            ("bin/where", Tree::link(format!("{right}/bin/where"))),
            (deep.as_str(), Tree::file("40 directories above me\n")),
        ]),
    );
}

fn single_objects(store: &mut Builder) {
    store.fixed("config", "config.txt", "colour = blue\n");
    store.derive("tool", "tool.sh", &["out"], &[]);
    store.built("tool", Tree::program("#!/bin/sh\necho tool\n"));
    store.derive("link", "link", &["out"], &["left"]);
    store.built("link", Tree::link(store.at("left") + "/bin/hello"));
    store.derive("empty", "empty", &["out"], &[]);
    store.built("empty", Tree::dir([]));
    let long = format!("{:=<211}", "aZ09+-._?=long");
    store.source("long", &long, Tree::file("my name is as long as it may be\n"));
}

fn data(store: &mut Builder) {
    store.derive("data", "data-1.0", &["out"], &[]);
    let lines = (0..16384).fold(String::new(), |mut text, n| {
        writeln!(text, "{:015}", n * 7919).expect("writing to a string");
        text
    });
    store.built("data", Tree::dir([("share/lines.txt", Tree::file(lines))]));

    store.derive("sparse", "sparse-1.0", &["out"], &[]);
    let pieces = vec![
        (0, b"the first bytes".to_vec()),
        (1 << 20, b"in the middle".to_vec()),
        (SPARSE_SIZE - 3, b"end".to_vec()),
    ];
    let holes = Tree::File { size: SPARSE_SIZE, pieces, executable: false };
    store.built("sparse", Tree::dir([("holes.bin", holes)]));

    let same: Vec<u8> = (0..20_000_u32).map(|n| ((n * n) >> 7) as u8).collect();
    store.derive("twin", "twin", &["out"], &[]);
    store.built("twin", Tree::dir([("same.bin", Tree::file(same.clone())), ("nothing", Tree::file(""))]));
    store.derive("secret", "secret", &["out"], &[]);
    let key = Tree::file("nobody may see this\n");
    store.built("secret", Tree::dir([("same.bin", Tree::file(same)), ("key", key)]));
}

fn environments(store: &mut Builder) {
    store.derive("env-a", "env-a", &["out"], &["top", "left", "config", "tool", "link"]);
    let a = Tree::dir([
        ("bin/hello", Tree::link(store.at("left") + "/bin/hello")),
        ("bin/hello-by-script", Tree::link(store.at("top") + "/bin/hello-by-script")),
        ("bin/hi", Tree::link(store.at("link"))),
        ("bin/tool", Tree::link(store.at("tool"))),
        ("etc/config.txt", Tree::link(store.at("config"))),
    ]);
    store.built("env-a", a);

    store.derive("env-b", "env-b", &["out"], &["right", "data", "sparse", "twin", "empty", "long"]);
    let b = Tree::dir([
        ("bin/where", Tree::link(store.at("right") + "/bin/where")),
        ("share/lines.txt", Tree::link(store.at("data") + "/share/lines.txt")),
        ("share/holes.bin", Tree::link(store.at("sparse") + "/holes.bin")),
        ("share/twin", Tree::link(store.at("twin"))),
        ("share/empty", Tree::link(store.at("empty"))),
        ("share/long", Tree::link(store.at("long"))),
    ]);
    store.built("env-b", b);
}

fn unbuilt(store: &mut Builder) {
    store.derive("partial", "partial-1.0", &["doc", "out"], &["libc"]);
    let library = Tree::link(store.at("libc") + "/lib/libc.so");
    store.built("partial", Tree::dir([("lib/libc.so", library)]));
    store.derive("never", "never-1.0", &["out"], &["partial-doc"]);
}

/// A static x86-64 program that writes [`HELLO`] to its standard output and exits with 0.
///
/// An ELF header, one program header that maps the whole file at 0x400000, code, text: `elf(5)`.
fn hello_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = HELLO.len() as u8;
    #[rustfmt::skip]
    let code = [
        0xb8, 1, 0, 0, 0,                   // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0,                   // mov edi, 1
        0x48, 0x8d, 0x35, 16, 0, 0, 0,      // lea rsi, [rip + 16]: the text
        0xba, length, 0, 0, 0,              // mov edx, length
        0x0f, 0x05,                         // syscall
        0xb8, 60, 0, 0, 0,                  // mov eax, 60 (exit)
        0x31, 0xff,                         // xor edi, edi
        0x0f, 0x05,                         // syscall
    ];
    let size = HEADERS + code.len() as u64 + HELLO.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes()); // entry point, program headers, no section headers
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]); // flags, sizes and counts of headers
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // loadable, readable and executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes()); // offset, addresses, sizes in the file and in memory, alignment
    }
    elf.extend(code);
    elf.extend(HELLO.as_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    #[cfg_attr(not(target_arch = "x86_64"), ignore = "the program is for x86-64")]
    fn hello_runs() {
        let store = crate::MiniStore::temporary();
        let output = Command::new(store.real("left").join("bin/hello")).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, super::HELLO.as_bytes());
    }
}
