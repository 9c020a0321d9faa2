# packages: libc6 libgcc-s1 libstdc++6
# Node.js itself comes from npm: nix/default.nix
link_programs
