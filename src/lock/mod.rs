//! `env.lock`: an environment pinned in a file.
