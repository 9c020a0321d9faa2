# Builder of an environment: links to the programs of its packages, and wrappers, like Nixpkgs' buildEnv.
# $paths: its packages; $script: its file in ../environments; $recipes: what such files call.
set -e
export PATH="$tools/bin"
mkdir -p "$out/bin" "$out/nix-support"
. "$recipes"
find_closure
cd "$out"
. "$script"
echo "$paths" >"$out/nix-support/paths"
