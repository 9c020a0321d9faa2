# Debian packages and environments out of them, as Nix derivations: nix-instantiate nix --arg … -A environments.base
#
# packages: packages.json, as debian/main.py writes it
# boot:     a folder with a static busybox and a static patchelf
# extra:    a folder with node.tgz, for the environment node alone
{ packages, boot, extra }:
let
  system = "x86_64-linux";
  records = builtins.fromJSON (builtins.readFile packages);

  # The two programs that every builder starts from; busybox with a link for each of its applets.
  tools = derivation {
    name = "bootstrap-tools";
    inherit system boot;
    builder = "${boot}/busybox";
    args = [ "sh" ./tools.sh ];
  };

  # A .deb file. It is in the store already (`nix-store --add-fixed`); the URL tells where it is from.
  fetch = { name, url, sha256, ... }: derivation {
    inherit name system url;
    urls = [ url ];
    builder = "builtin:fetchurl";
    outputHash = sha256;
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    preferLocalBuild = true;
    unpack = false;
    executable = false;
  };

  package = { pname, version, sources, deps, shell }: derivation {
    name = "${pname}-${version}";
    inherit system pname version deps shell tools;
    srcs = sources;
    builder = "${tools}/bin/busybox";
    args = [ "sh" ./package.sh ];
  };

  debian = builtins.mapAttrs (pname: record: package {
    inherit pname;
    inherit (record) version;
    sources = map fetch record.debs;
    deps = map (name: debian.${name}) record.deps;
    shell = if record.shell then debian.dash else "";
  }) records;

  # Node.js 20 as npm has it: Debian's own is split into hundreds of packages.
  nodejs20 = package {
    pname = "nodejs20";
    version = "20.20.2";
    sources = [ (extra + "/node.tgz") ];
    deps = [ debian.libc6 debian.libgcc-s1 debian."libstdc++6" ];
    shell = debian.dash;
  };

  # mawk, not gawk: the latter crashes at start after patchelf 0.17 has changed it.
  base = map (name: debian.${name}) [ "bash" "dash" "coreutils" "grep" "sed" "mawk" "findutils" "tar" "gzip" ];

  # One environment for each file in ../environments: its line `# packages:` says what is in it, the rest is run by
  # environment.sh in the output.
  environment = file:
    let
      name = builtins.head (builtins.match "(.*)\\.sh" file);
      text = builtins.readFile (../environments + "/${file}");
      line = builtins.head (builtins.match ".*# packages:([^\n]*)\n.*" text);
      words = builtins.filter (word: builtins.isString word && word != "") (builtins.split " +" line);
    in {
      inherit name;
      value = derivation {
        name = "env-${name}";
        inherit system tools;
        paths = base ++ map (word: debian.${word}) words ++ (if name == "node" then [ nodejs20 ] else [ ]);
        script = builtins.toFile "${name}.sh" text;
        recipes = ./recipes.sh;
        dash = debian.dash;
        builder = "${tools}/bin/busybox";
        args = [ "sh" ./environment.sh ];
      };
    };
in {
  inherit debian;
  environments = builtins.listToAttrs (map environment (builtins.attrNames (builtins.readDir ../environments)));
}
