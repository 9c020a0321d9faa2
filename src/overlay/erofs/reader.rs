//! A naive reader of images, for tests: it follows the kernel's documentation and shares no code
//! with the writer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;

/// An inode as read: its path's attributes, and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Read {
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) mtime: (u64, u32),
    pub(super) attributes: BTreeMap<String, Vec<u8>>,
    /// The bytes of a link or file; `None` for a directory and for a file without data.
    pub(super) bytes: Option<Vec<u8>>,
}

fn number(image: &[u8], at: usize, size: usize) -> u64 {
    image[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn whole(image: &[u8], at: usize, size: usize) -> usize {
    usize::try_from(number(image, at, size)).unwrap()
}

/// All paths of an image. Panics at anything that the documentation forbids.
pub(super) fn read(image: &[u8]) -> BTreeMap<String, Read> {
    assert_eq!(number(image, 1024, 4), 0xE0F5_E1E2, "magic");
    assert_eq!(image[1024 + 12], 12, "block size");
    assert_eq!(whole(image, 1024 + 36, 4) * 4096, image.len(), "blocks");
    assert_eq!(number(image, 1024 + 80, 4) & !4, 0, "incompatible features");
    let mut found = BTreeMap::new();
    let root = whole(image, 1024 + 14, 2);
    visit(image, root, root, String::new(), &mut found);
    assert_eq!(found.len() as u64, number(image, 1024 + 16, 8), "inodes");
    found
}

fn visit(image: &[u8], nid: usize, parent: usize, path: String, found: &mut BTreeMap<String, Read>) {
    let at = nid * 32;
    let format = number(image, at, 2);
    assert_eq!(format & 1, 1, "{path}: 64 bytes");
    assert_eq!((number(image, at + 24, 4), number(image, at + 28, 4)), (0, 0), "{path}: owner");
    let count = whole(image, at + 2, 2);
    let attributes_at = at + 64;
    let mut data_at = attributes_at;
    let mut attributes = BTreeMap::new();
    if count > 0 {
        data_at += 12 + (count - 1) * 4;
        let mut entry = attributes_at + 12;
        while entry < data_at {
            let (name, value) = (usize::from(image[entry]), whole(image, entry + 2, 2));
            assert_eq!(image[entry + 1], 4, "{path}: trusted");
            let text = std::str::from_utf8(&image[entry + 4..entry + 4 + name]).unwrap();
            attributes.insert(text.to_owned(), image[entry + 4 + name..entry + 4 + name + value].to_vec());
            entry += (4 + name + value).next_multiple_of(4);
        }
        assert_eq!(entry, data_at, "{path}: attributes");
    }
    let size = whole(image, at + 8, 8);
    let mode = u16::try_from(number(image, at + 4, 2)).unwrap();
    let block = whole(image, at + 16, 4);
    let data = match format >> 1 {
        0 if size == 0 => Some((0, 0)),
        0 => Some((block * 4096, size)),
        2 => {
            assert_eq!(at / 4096, (data_at + size - 1) / 4096, "{path}: in one block");
            Some((data_at, size))
        }
        4 => {
            assert!(size as u64 <= 4096 << number(image, at + 16, 2), "{path}: one chunk");
            assert_eq!(number(image, data_at, 4), 0xFFFF_FFFF, "{path}: no data");
            None
        }
        other => panic!("{path}: layout {other}"),
    };
    let bytes = data.map(|(at, size)| image[at..at + size].to_vec());
    let is_directory = mode & 0o170_000 == 0o040_000;
    let read = Read {
        mode,
        links: u32::try_from(number(image, at + 44, 4)).unwrap(),
        size: size as u64,
        mtime: (number(image, at + 32, 8), u32::try_from(number(image, at + 40, 4)).unwrap()),
        attributes,
        bytes: if is_directory { None } else { bytes.clone() },
    };
    found.insert(path.clone(), read);
    if !is_directory {
        return;
    }
    let mut names = Vec::new();
    for block in bytes.unwrap().chunks(4096) {
        let entries = whole(block, 8, 2) / 12;
        for entry in 0..entries {
            let start = whole(block, entry * 12 + 8, 2);
            let end = if entry + 1 < entries { whole(block, entry * 12 + 20, 2) } else { block.len() };
            let name: Vec<u8> = block[start..end].iter().copied().take_while(|byte| *byte != 0).collect();
            names.push((name, whole(block, entry * 12, 8), block[entry * 12 + 10]));
        }
    }
    assert!(names.is_sorted_by(|a, b| a.0 < b.0), "{path}: sorted, each once");
    for (name, child, kind) in names {
        let expected = match name.as_slice() {
            b"." => nid,
            b".." => parent,
            _ => {
                let below = format!("{path}/{}", name.escape_ascii());
                visit(image, child, nid, below, found);
                child
            }
        };
        assert_eq!(child, expected, "{path}: the inode of {}", name.escape_ascii());
        let mode = number(image, child * 32 + 4, 2) >> 12;
        assert_eq!(u64::from(kind), [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 7][usize::try_from(mode).unwrap()]);
    }
}
