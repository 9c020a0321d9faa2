# Sourced: install_packages COMMAND='PACKAGE...'... installs the packages (words) whose command Debian lacks; with sudo when not root, and says so.
install_packages() {
  local missing=() words=() pair
  for pair in "$@"; do
    if [[ -z $(PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%=*}") ]]; then
      read -ra words <<<"${pair#*=}"
      missing+=("${words[@]}")
    fi
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; exit 1; }
  local sudo=()
  [[ $(id -u) -eq 0 ]] || sudo=(sudo)
  echo "installing with ${sudo[*]:+sudo }apt-get: ${missing[*]}"
  "${sudo[@]}" apt-get -qq update
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}
