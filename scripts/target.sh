# Sourced: `target` is cargo's target directory, whatever CARGO_TARGET_DIR or a configuration file says.
target=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
[[ -n $target ]] || { echo "cargo does not say where its target directory is" >&2; exit 1; }
