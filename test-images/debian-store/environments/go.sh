# packages: golang-1.19-go golang-1.19-src
# Its programs are not patched (nix/package.sh): the loader is called by name.
link_programs
root=$(find1 lib/go-1.19)
wrap go "$loader --library-path $libc/lib/x86_64-linux-gnu $root/bin/go" "export GOROOT=$root"
