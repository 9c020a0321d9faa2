# A Rust program with dependencies: built, built again, changed and built again.
export CARGO_TARGET_DIR=$PWD/target
cargo --version || cannot "cargo is not installed"
cargo init -q --name program "$SCRATCH/program"
(cd "$SCRATCH/program" && cargo add -q regex serde --features serde/derive && cargo fetch -q) || cannot "no packages can be downloaded"
cargo init -q --name program program
cd program
cargo add -q regex serde --features serde/derive
echo 'fn main() { println!("{}", regex::Regex::new("a+").unwrap().is_match("aa")); }' >src/main.rs
cargo build -q
[[ $(../target/debug/program) == true ]]
[[ -z $(cargo build -v 2>&1 | grep Compiling || true) ]]
sed -i 's/"aa"/"bb"/' src/main.rs
[[ $(cargo run -q) == false ]]
