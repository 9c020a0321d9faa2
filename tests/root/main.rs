//! Real mounts, containers and kills: as root, with /dev/fuse. All tests here are ignored unless they are asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test code"
)]

mod access_lists;
mod attacks;
mod closure_layer;
mod container_ids;
mod containers;
mod copy_up;
mod daemon;
mod database;
mod detached;
mod disk;
mod endurance;
mod export;
mod fuse;
mod hostile_names;
mod inode_numbers;
mod kill;
mod kill_everywhere;
mod kill_leases;
mod kill_overlay;
mod layer;
mod limits;
mod locked_flags;
mod logs;
mod many_views;
mod metadata;
mod mount;
mod nix_state;
mod over_store;
mod overlay_attacks;
mod overlay_backend;
mod overlay_life;
mod overlay_oracle;
mod overlay_program;
mod overlay_rules;
mod overlay_use;
mod overlay_ways;
mod owner;
mod power;
mod quota;
mod run;
mod run_isolated;
mod server_death;
mod small_keeper;
mod sys_mount;
mod sys_overlay;
mod trace;
mod union;
mod unmount;
mod upper_check;
mod upper_crossing;
mod witnesses;

#[path = "../support"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support {
    pub(crate) mod caches;
    pub(crate) mod clients;
    pub(crate) mod closure_lab;
    pub(crate) mod effort;
    pub(crate) mod endurance;
    pub(crate) mod forked;
    pub(crate) mod fuse_tree;
    pub(crate) mod history;
    pub(crate) mod hostile;
    pub(crate) mod layer_suite;
    pub(crate) mod scene;
    pub(crate) mod server_death;
    pub(crate) mod skip;
    pub(crate) mod strace;
    pub(crate) mod union_mount;
    pub(crate) mod union_support;
    pub(crate) mod wait;
}
