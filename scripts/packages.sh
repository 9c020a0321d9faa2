# Sourced: install_packages COMMAND=PACKAGE... installs what Debian lacks; with sudo when not root, and says so.
install_packages() {
  local missing=() pair
  for pair in "$@"; do
    [[ -n $(PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%=*}") ]] || missing+=("${pair#*=}")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; exit 1; }
  local sudo=()
  [[ $(id -u) -eq 0 ]] || sudo=(sudo)
  echo "installing with ${sudo[*]:+sudo }apt-get: ${missing[*]}"
  "${sudo[@]}" apt-get -qq update
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}
