//! Answers of the kinds that several requests have.

use fuser::{Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use crate::vfs::{self, Entry};

use super::convert::{self, FOREVER};

pub(super) fn entry(reply: ReplyEntry, answer: Result<Entry, fuser::Errno>) {
    match answer {
        Ok(entry) => reply.entry(&FOREVER, &convert::attr(&entry.attr), Generation(entry.generation.0)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn attributes(reply: ReplyAttr, answer: Result<vfs::Attr, fuser::Errno>) {
    match answer {
        Ok(attr) => reply.attr(&FOREVER, &convert::attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn empty(reply: ReplyEmpty, answer: Result<(), fuser::Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers a question that may have been for the length alone (`size` 0).
pub(super) fn xattr(reply: ReplyXattr, size: u32, answer: Result<Vec<u8>, fuser::Errno>) {
    match answer {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        },
        Err(errno) => reply.error(errno),
    }
}
