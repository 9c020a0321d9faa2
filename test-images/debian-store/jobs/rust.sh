echo 'fn main() { println!("{} from Rust", 6 * 7); }' >a.rs
rustc a.rs && ./a | grep -x '42 from Rust'
