#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::reader::{Read, read};
use super::{TooLarge, image};
use crate::overlay::tree::{Content, Entry, Mark, Node, Tree};
use crate::vfs::{Name, Timespec};

const TIME: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

fn entry(name: &[u8], content: Content) -> Entry {
    let node = Node { permissions: 0o555, mtime: TIME, marks: Vec::new(), content };
    Entry { name: Name::new(name).unwrap(), node }
}

fn tree(entries: Vec<Entry>) -> Tree {
    Tree::new(0o755, TIME, entries).unwrap()
}

/// The tree as [`read`] shows it.
fn expected(tree: &Tree) -> BTreeMap<String, Read> {
    fn visit(node: &Node, path: String, all: &mut BTreeMap<String, Read>) {
        let directories = node.entries().iter().filter(|e| matches!(e.node.content, Content::Directory(_)));
        let (kind, bytes) = match &node.content {
            Content::Directory(_) => (0o040_000, None),
            Content::Symlink(bytes) => (0o120_000, Some(bytes.clone())),
            Content::File(bytes) => (0o100_000, Some(bytes.clone())),
            Content::Hole(0) => (0o100_000, Some(Vec::new())),
            Content::Hole(_) => (0o100_000, None),
        };
        let links = if kind == 0o040_000 { 2 + u32::try_from(directories.count()).unwrap() } else { 1 };
        let size = match &node.content {
            Content::Hole(size) => *size,
            Content::Directory(_) => 0,
            _ => bytes.as_ref().unwrap().len() as u64,
        };
        let strip = |name: &[u8]| String::from_utf8(name["trusted.".len()..].to_vec()).unwrap();
        let read = Read {
            mode: kind | if kind == 0o120_000 { 0o777 } else { node.permissions },
            links,
            size,
            mtime: (node.mtime.seconds.cast_unsigned(), node.mtime.nanoseconds),
            attributes: node.marks.iter().map(|m| (strip(m.name()), m.value().to_vec())).collect(),
            bytes,
        };
        all.insert(path.clone(), read);
        for entry in node.entries() {
            visit(&entry.node, format!("{path}/{}", entry.name.as_bytes().escape_ascii()), all);
        }
    }
    let mut all = BTreeMap::new();
    visit(tree.top(), String::new(), &mut all);
    all
}

fn assert_reads_back(tree: &Tree) -> Vec<u8> {
    let image = image(tree).unwrap();
    let mut found = read(&image);
    for inode in found.values_mut().filter(|inode| inode.mode & 0o170_000 == 0o040_000) {
        inode.size = 0;
    }
    assert!(found == expected(tree), "the image holds another tree");
    image
}

/// Every byte of a small image, put down by hand from `erofs_fs.h`.
#[test]
fn a_small_image_byte_by_byte() {
    let redirect = Mark::Redirect(b"/a".to_vec());
    let node = Node::directory(0o555, TIME, Vec::new()).marked(redirect);
    let image = image(&tree(vec![Entry { name: Name::new(b"a").unwrap(), node }])).unwrap();
    let mut wanted = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| wanted[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &[0xE2, 0xE1, 0xF5, 0xE0]); // magic
    put(1024 + 8, &[3]); // checksum, times
    put(1024 + 12, &[12, 0, 36, 0]); // block bits, extra slots, root
    put(1024 + 16, &[2]); // inodes
    put(1024 + 36, &[1]); // blocks
    // The root, slot 36: 64 bytes and data beside, no attributes, drwxr-xr-x.
    put(1152, &[5, 0, 0, 0, 0xED, 0x41, 0, 0]);
    put(1152 + 8, &[40]); // size
    put(1152 + 16, &[0xFF, 0xFF, 0xFF, 0xFF, 1]); // no block, inode 1
    put(1152 + 32, &[1]); // mtime
    put(1152 + 44, &[3]); // links
    put(1152 + 64, &[36, 0, 0, 0, 0, 0, 0, 0, 36, 0, 2, 0]); // "." at 36
    put(1152 + 76, &[36, 0, 0, 0, 0, 0, 0, 0, 37, 0, 2, 0]); // ".." at 37
    put(1152 + 88, &[40, 0, 0, 0, 0, 0, 0, 0, 39, 0, 2, 0]); // "a" at 39
    put(1152 + 100, b"...a");
    // The directory, slot 40: 1 + (4 + 16 + 2, rounded up to 24) / 4 = 7 units of attributes,
    // dr-xr-xr-x.
    put(1280, &[5, 0, 7, 0, 0x6D, 0x41, 0, 0]);
    put(1280 + 8, &[27]);
    put(1280 + 16, &[0xFF, 0xFF, 0xFF, 0xFF, 2]);
    put(1280 + 32, &[1]);
    put(1280 + 44, &[2]);
    put(1280 + 64 + 12, &[16, 4, 2, 0]); // 16 bytes of name, "trusted.", 2 bytes of value
    put(1280 + 80, b"overlay.redirect/a");
    put(1280 + 100, &[40, 0, 0, 0, 0, 0, 0, 0, 24, 0, 2, 0]);
    put(1280 + 112, &[36, 0, 0, 0, 0, 0, 0, 0, 25, 0, 2, 0]);
    put(1280 + 124, b"...");
    let mut without_checksum = image.clone();
    without_checksum[1028..1032].fill(0);
    let differs: Vec<usize> = (0..4096).filter(|at| without_checksum[*at] != wanted[*at]).collect();
    assert_eq!((image.len(), differs), (4096, vec![]), "where bytes differ");
}

#[test]
fn what_an_inode_can_be_reads_back() {
    let mut marked = entry(b"big", Content::Hole((1 << 40) + 1));
    marked.node.marks = vec![Mark::Metacopy, Mark::Redirect(vec![b'/'; 255])];
    let deep = entry(b"d", Content::Directory(vec![entry(b"e", Content::Directory(vec![]))]));
    let mut entries =
        vec![marked, deep, entry(b"none", Content::Hole(0)), entry(b"-before-dot", Content::File(vec![]))];
    // Beside the inode, up to a whole block with it, and beyond.
    for size in [0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 100_000] {
        entries.push(entry(format!("f{size}").as_bytes(), Content::File(vec![b'x'; size])));
    }
    for size in [1, 59, 4032, 4033, 4095] {
        entries.push(entry(format!("l{size}").as_bytes(), Content::Symlink(vec![b'y'; size])));
    }
    let old = Timespec { seconds: -5, nanoseconds: 999_999_999 };
    entries.push(Entry { node: Node::directory(0o7777, old, vec![]), ..entry(b"old", Content::Hole(0)) });
    assert_reads_back(&tree(entries));
}

#[test]
fn directories_of_any_size_read_back_and_cost_what_their_names_do() {
    for (count, length) in
        [(0, 50), (1, 50), (10, 211), (61, 50), (62, 50), (63, 50), (5_000, 211), (100_000, 50)]
    {
        let names = (0..count).map(|n: usize| format!("{n:0length$}"));
        let entries: Vec<Entry> = names
            .map(|name| {
                let mut entry = entry(name.as_bytes(), Content::Directory(vec![]));
                entry.node.marks = vec![Mark::Redirect(format!("/{name}").into_bytes())];
                entry
            })
            .collect();
        let tree = tree(entries);
        let image = assert_reads_back(&tree);
        // An inode: 64, attributes 12 + 4 + 16 + 1 + LENGTH, two entries 27; an entry: 12 + LENGTH;
        // and what alignment takes.
        assert!(image.len() <= 8192 + count * (160 + 2 * length) * 9 / 8, "{count}: {}", image.len());
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert_eq!(image(&tree(vec![entry(b"f", Content::Hole(1 << 43))])).map(|_| ()), Ok(()));
    let error = image(&tree(vec![entry(b"f", Content::Hole((1 << 43) + 1))])).unwrap_err();
    assert_eq!(error, TooLarge("so long a file"));
    let mut marked = entry(b"d", Content::Directory(vec![]));
    marked.node.marks = vec![Mark::Redirect(vec![b'/'; 4000])];
    assert!(image(&tree(vec![marked])).unwrap_err().to_string().contains("attributes"));
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        Just(Content::Directory(vec![])),
        prop::collection::vec(1_u8..=255, 1..200).prop_map(Content::Symlink),
        prop::collection::vec(any::<u8>(), 0..9000).prop_map(Content::File),
        (0_u64..1 << 43).prop_map(Content::Hole),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any tree reads back, and its order does not matter.
    #[test]
    fn any_tree_reads_back(
        members in prop::collection::btree_map(prop::collection::vec(1_u8..=255, 1..=255), content(), 0..80),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut entries: Vec<Entry> = members
            .into_iter()
            .filter_map(|(name, content)| Name::new(&name).ok().map(|_| entry(&name, content)))
            .collect();
        let inner = |entries: &[Entry]| tree(vec![entry(b"nix", Content::Directory(entries.to_vec()))]);
        let first = assert_reads_back(&inner(&entries));
        if !entries.is_empty() {
            let by = turn.index(entries.len());
            entries.rotate_left(by);
            entries.reverse();
        }
        prop_assert!(image(&inner(&entries)).unwrap() == first, "another order, another image");
    }
}
