# Sourced by `run` and others: one function for each runtime and way, and clean_up.
# Uses: work, id, here, nixview, hook, lock, store, variables.

# A mounted view at $work/nix.
mount_view() {
  mkdir "$work/nix"
  "$nixview" mount --closure "$lock" --store "$store" --name "$id" --tmp "$work/nix" >/dev/null
}

# What the hook is told beside annotations.
hook_words=(); [[ -z ${NIXVIEW_STATE_DIR-} ]] || hook_words+=(--state-dir "$NIXVIEW_STATE_DIR")
[[ -z ${NIXVIEW_RUNTIME_DIR-} ]] || hook_words+=(--runtime-dir "$NIXVIEW_RUNTIME_DIR")
[[ -z ${NIXVIEW_BACKEND-} ]] || hook_words+=(--backend "$NIXVIEW_BACKEND")

# bundle WORD...: $work/config.json, with the words for bundle.py.
bundle() {
  local variable all=()
  for variable in "${variables[@]}"; do all+=(--env "$variable"); done
  python3 "$here/bundle.py" "$work" "${all[@]}" "$@"
}
bundle_hook() {
  bundle --annotation "dev.nixview.closure=$lock" --annotation "dev.nixview.store=$store" \
    --hook "$hook" "${hook_words[@]}" --nixview "$nixview" ';' -- "$@"
}
bundle_bind() { mount_view && bundle --bind "$work/nix" -- "$@"; }

runc_hook() { bundle_hook "$@" && run_runc; }
runc_bind() { bundle_bind "$@" && run_runc; }
run_runc() { runc --root "$work/runc" run --bundle "$work" "$id"; }

crun_hook() { bundle_hook "$@" && run_crun; }
crun_bind() { bundle_bind "$@" && run_crun; }
# crun does not do cgroup v1 beside v2: it gets a v2 of its own to look at, in a mount namespace of its own.
run_crun() {
  local command=(crun --root "$work/crun" --cgroup-manager=disabled run --bundle "$work" "$id")
  if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
    "${command[@]}"
  else
    unshare --mount --propagation private sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "${command[@]}"
  fi
}

# podman with storage of its own below $work. Limits as they are there everywhere, without the right to raise them.
podman_bind() { mount_view && run_podman --volume "$work/nix:/nix" -- "$@"; }
podman_hook() {
  mkdir "$work/hooks.d"
  sed "s|/usr/libexec/oci/hooks.d/nixview-oci-hook|$hook|; s|\"args\": \[.*\]|\"args\": [$(quoted nixview-oci-hook "${hook_words[@]}" --nixview "$nixview")]|" \
    "$here/../../mount-helpers/hooks.d/nixview.json" >"$work/hooks.d/nixview.json"
  podman_options+=(--hooks-dir "$work/hooks.d")
  run_podman --annotation "dev.nixview.closure=$lock" --annotation "dev.nixview.store=$store" -- "$@"
}
podman_cdi() {
  device=$id
  "$nixview" cdi "$lock" --name "$device" --dir /var/run/cdi --store "$store" --hook "$hook" --backend "${NIXVIEW_BACKEND:-auto}" >/dev/null
  run_podman --device "nixview.dev/env=$device" -- "$@"
}
podman_options=()
podman_() {
  podman --root "$work/podman" --runroot "$work/podman-run" --tmpdir "$work/podman-tmp" --storage-driver vfs \
    --cgroup-manager cgroupfs --events-backend none --runtime "${PODMAN_RUNTIME:-runc}" "${podman_options[@]}" "$@"
}
# run_podman OPTION... -- COMMAND...
run_podman() {
  local variable options=()
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  for variable in "${variables[@]}"; do options+=(--env "$variable"); done
  [[ ${PODMAN_RUNTIME:-runc} == runc ]] || options+=(--cgroups disabled)
  podman_ run --rm --name "$id" --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --workdir /tmp --tmpfs /tmp:mode=1777 "${options[@]}" --rootfs "$work/rootfs" "${@:2}"
}
quoted() { local all; printf -v all '"%s", ' "$@"; echo "${all%, }"; }

# bubblewrap has no hooks: it runs in the namespace in which 'nixview run' has the view at /nix.
bwrap_bind() {
  local variable all=()
  for variable in "${variables[@]}"; do all+=(--setenv "${variable%%=*}" "${variable#*=}"); done
  "$nixview" run --closure "$lock" --store "$store" --pure -- "$(type -P bwrap)" --unshare-all --die-with-parent --clearenv "${all[@]}" \
    --ro-bind "$work/rootfs" / --bind /nix /nix --proc /proc --dev /dev --tmpfs /tmp --tmpfs /run --chdir /tmp "$@"
}

clean_up() {
  trap - EXIT
  [[ -z ${device-} ]] || "$nixview" cdi --remove "$device" --dir /var/run/cdi 2>/dev/null
  ! mountpoint -q "$work/nix" || "$nixview" umount --lazy "$id" 2>/dev/null || umount -l "$work/nix"
  if [[ -d $work/podman ]]; then podman_ rm --all --force --time 0 >/dev/null; ! mountpoint -q "$work/podman" || umount "$work/podman"; fi
  rm -rf --one-file-system "$work"
}
