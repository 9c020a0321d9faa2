//! Content: reading and writing, and copies into drafts.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nixview::layer::{Access, LayerFile, NewObject, Stat, Upper};
use nixview::vfs::{Errno, SeekTarget, SetAttr};

use super::{Bench, Test, errno, name};

pub(crate) fn tests<U: Upper>() -> Vec<Test<U>> {
    vec![
        ("reads_and_writes", reads_and_writes),
        ("copies_of_every_length", copies_of_every_length),
        ("copies_of_sparse_files", copies_of_sparse_files),
        ("copies_by_hand", copies_by_hand),
        ("a_failed_copy_leaves_nothing", a_failed_copy_leaves_nothing),
    ]
}

/// Bytes that differ from block to block and are never zero.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i / 7 % 251).unwrap() + 1).collect()
}

fn reads_and_writes<U: Upper>(b: &Bench<U>) {
    let object = b.add_file(&b.root(), "f", b"hello");
    let file = b.upper.open(&object, Access::ReadWrite).unwrap();
    assert_eq!(file.write_at(10, b"world").unwrap(), 5);
    assert_eq!(b.read(&object), b"hello\0\0\0\0\0world");
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(13, &mut buffer).unwrap(), 2);
    assert_eq!(file.read_at(15, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(1 << 40, &mut buffer).unwrap(), 0);
    assert_eq!(file.stat().unwrap().size, 15);
    let read_only = b.upper.open(&object, Access::Read).unwrap();
    assert_eq!(errno(read_only.write_at(0, b"x")), Errno::EBADF);
    assert_eq!(errno(file.seek(15, SeekTarget::Data)), Errno::ENXIO);
    assert_eq!(file.seek(0, SeekTarget::Data).unwrap(), 0);
    assert_eq!(file.seek(12, SeekTarget::Hole).unwrap(), 15);
    file.allocate(0, 0, 100).unwrap();
    assert_eq!(file.stat().unwrap().size, 100);
    assert_eq!(errno(file.allocate(0x4000_0000, 0, 1)), Errno::EOPNOTSUPP);
}

fn copies_of_every_length<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    for length in [0, 1, 511, 4096, 4097, 300_000, 3_000_001] {
        let source = b.add_file(&root, "source", &pattern(length));
        let open = b.upper.open(&source, Access::Read).unwrap();
        let draft = b.draft(&NewObject::File, 0o444);
        b.upper.fill(&draft, &open).unwrap();
        let copy = b.upper.draft_object(&draft);
        b.upper.publish(draft, &root, &name("copy")).unwrap();
        assert!(b.read(&copy) == pattern(length), "{length} bytes");
        assert_eq!(b.upper.stat(&copy).unwrap().permissions, 0o444);
        assert_ne!(b.upper.stat(&copy).unwrap().ino, b.upper.stat(&source).unwrap().ino);
        b.upper.open(&source, Access::ReadWrite).unwrap().write_at(0, b"changed").unwrap();
        assert!(b.read(&copy) == pattern(length), "the copy is one's own");
    }
}

fn copies_of_sparse_files<U: Upper>(b: &Bench<U>) {
    const MIB: u64 = 1 << 20;
    let root = b.root();
    let source = b.add(&root, "source", &NewObject::File);
    let open = b.upper.open(&source, Access::ReadWrite).unwrap();
    open.write_at(3 * MIB, b"data").unwrap();
    open.set_attr(&SetAttr { size: Some(8 * MIB + 5), ..SetAttr::default() }).unwrap();
    for by_hand in [false, true] {
        let draft = b.draft(&NewObject::File, 0o600);
        if by_hand {
            b.upper.fill(&draft, &InHand::copy_of(&open, usize::MAX, true)).unwrap();
        } else {
            b.upper.fill(&draft, &open).unwrap();
        }
        let copy = b.upper.draft_object(&draft);
        let content = b.read(&copy);
        assert_eq!(content.len() as u64, 8 * MIB + 5);
        let start = usize::try_from(3 * MIB).unwrap();
        assert_eq!(&content[start..start + 4], b"data");
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 4);
        let (of_source, of_copy) = (open.stat().unwrap().blocks, b.upper.stat(&copy).unwrap().blocks);
        assert!(of_copy <= of_source + 128, "holes stay holes: {of_copy} blocks of {of_source}");
    }
}

fn copies_by_hand<U: Upper>(b: &Bench<U>) {
    let source = b.add_file(&b.root(), "source", &pattern(100_000));
    let open = b.upper.open(&source, Access::Read).unwrap();
    for (chunk, seeks) in [(usize::MAX, true), (usize::MAX, false), (777, true), (777, false)] {
        let draft = b.draft(&NewObject::File, 0o600);
        b.upper.fill(&draft, &InHand::copy_of(&open, chunk, seeks)).unwrap();
        assert!(
            b.read(&b.upper.draft_object(&draft)) == pattern(100_000),
            "{chunk} at a time, seeks: {seeks}"
        );
    }
}

fn a_failed_copy_leaves_nothing<U: Upper>(b: &Bench<U>) {
    let source = b.add_file(&b.root(), "source", &pattern(10_000));
    let open = b.upper.open(&source, Access::Read).unwrap();
    let mut shorter = InHand::copy_of(&open, usize::MAX, false);
    shorter.content.truncate(5_000);
    let draft = b.draft(&NewObject::File, 0o600);
    assert_eq!(errno(b.upper.fill(&draft, &shorter)), Errno::EIO);
    drop(draft);
    assert_eq!((b.work)(), 0);
    assert_eq!(b.upper.read_dir(&b.root()).unwrap().len(), 1);
}

/// A file of no file system: without a descriptor, and it answers little at a time.
struct InHand {
    content: Vec<u8>,
    stat: Stat,
    chunk: usize,
    /// Tells data from holes, block by block; otherwise it answers `EOPNOTSUPP`.
    seeks: bool,
}

impl InHand {
    fn copy_of(file: &impl LayerFile, chunk: usize, seeks: bool) -> Self {
        let stat = file.stat().unwrap();
        let mut content = vec![0; usize::try_from(stat.size).unwrap()];
        let mut at = 0;
        while at < content.len() {
            at += file.read_at(at as u64, &mut content[at..]).unwrap();
        }
        Self { content, stat, chunk, seeks }
    }
}

impl LayerFile for InHand {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap().min(self.content.len());
        let length = buffer.len().min(self.chunk).min(self.content.len() - start);
        buffer[..length].copy_from_slice(&self.content[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<usize> {
        Err(Errno::EBADF.into())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.stat)
    }

    fn set_attr(&self, _: &SetAttr) -> io::Result<()> {
        Err(Errno::EBADF.into())
    }

    fn sync(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: i32, _: u64, _: u64) -> io::Result<()> {
        Err(Errno::EBADF.into())
    }

    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64> {
        if !self.seeks {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let is_data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        let mut at = offset;
        while at < self.content.len() as u64 {
            let end = (at / 4096 + 1) * 4096;
            let block = &self.content
                [usize::try_from(at).unwrap()..self.content.len().min(usize::try_from(end).unwrap())];
            if is_data(block) == (target == SeekTarget::Data) {
                return Ok(at);
            }
            at = end;
        }
        if target == SeekTarget::Hole && offset < self.stat.size {
            Ok(self.stat.size)
        } else {
            Err(Errno::ENXIO.into())
        }
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}
