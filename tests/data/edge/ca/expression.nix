let ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; system = "x86_64-linux"; builder = "/bin/sh"; };
  multi = derivation (ca // { name = "ca-multi"; outputs = [ "out" "dev" ]; args = [ "-c" "echo o > $out; echo $out > $dev" ]; });
  use = derivation (ca // { name = "use-ca"; args = [ "-c" "echo ${multi.dev} > $out" ]; });
in use
